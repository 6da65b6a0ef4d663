"""What people type in the structured form, judged by the parser of the dataset's captions and by its words."""

import dataclasses
import re
import time

import numpy as np
import pytest

from model.config import Trained
from model.generation.enhancing import LABELS, by_rules, enhanced, is_structured
from model.generation.prepared import prepare
from model.generation.prompts import Shot, StructuredPrompt, render_prompt
from pipelines.dataset import captions
from pipelines.dataset.captions import StructuredCaption
from pipelines.synthesis.captions import captions as captions_of
from pipelines.synthesis.sampler import sample_film

ONLY = ("structured",)
PROMPTS = [
    "A red circle bounces off the walls, flat blue background, metal impacts.",
    "a red ball falls with a thud",
    'A woman in a red coat walks in and says "Hello there, friend." Soft piano music plays. The camera zooms slowly.',
    "Close-up of @dog running through @room, in the snow, warm evening light",
    'A neon sign that reads "OPEN & <b>" flickers in the rain.',
    "@dog moves as in @walk and speaks as @voice",
    "A man plays the piano and the crowd dances. Applause from the left",
    'The singer on the stage sings "over the hills", applause',
    "A green kite flies over a hill; a dog chases it. The sound of wind.",
]
NOT_ENGLISH = ["Ein roter Kreis springt auf und ab", "Le ballon rouge saute dans la rue", "El perro corre en la playa",
               "一个红球落下", "Красный шар падает", "Il cane corre in un prato"]  # fmt: skip


def told(words, picture=True):
    return render_prompt(enhanced(words, ONLY, by_rules, picture=picture))


def words_of(text):
    bare = re.sub(r"(?m)</?(?:text|sfx|dialogue|singing|bgm)>|^[A-Z][a-z ]+: ", " ", text)
    return set(re.findall(r"\w+", bare.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">").lower()))


@pytest.mark.parametrize("words", PROMPTS)
def test_what_is_typed_becomes_the_form_of_the_captions(words):
    parsed = StructuredCaption.parse(told(words))
    assert parsed.render() == told(words)
    assert parsed.subjects
    assert [subject.is_main for subject in parsed.subjects] == [True] + [False] * (len(parsed.subjects) - 1)


@pytest.mark.parametrize("words", PROMPTS)
def test_no_word_is_added_and_few_are_lost(words):
    """Lost may be only what labels and tags say in the place of words."""
    assert words_of(told(words)) <= words_of(words) | {"long"}
    assert words_of(words) - words_of(told(words)) <= {"of", "with", "and", "a"}


@pytest.mark.parametrize("words", PROMPTS)
def test_tags_and_quotations_stay(words):
    found = told(words)
    assert list(dict.fromkeys(re.findall(r"@[\w-]+", found))) == re.findall(r"@[\w-]+", words)
    unescaped = found.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    assert all(quoted in unescaped for quoted in re.findall(r'"[^"]+"', words))


def test_words_go_where_they_belong():
    parsed = StructuredCaption.parse(told(PROMPTS[0]))
    assert (parsed.subjects[0].appearance, parsed.subjects[0].action) == ("A red circle", "bounces off the walls")
    assert (parsed.environment, parsed.sfx) == ("flat blue background", ["metal impacts"])
    parsed = StructuredCaption.parse(told(PROMPTS[2]))
    assert parsed.camera_motion == "The camera zooms slowly"
    assert parsed.bgm == ["Soft piano music plays"]
    assert parsed.dialogue == ['A woman in a red coat walks in and says "Hello there, friend."']
    parsed = StructuredCaption.parse(told(PROMPTS[3]))
    assert (parsed.shot_type, parsed.environment, parsed.lighting) == ("close-up", "in the snow", "warm evening light")
    assert StructuredCaption.parse(told(PROMPTS[4])).text == ["OPEN & <b>"]
    assert len(StructuredCaption.parse(told(PROMPTS[8])).subjects) == 2


def test_without_a_picture_nothing_is_seen():
    parsed = StructuredCaption.parse(told("rain on a tin roof, with soft music", picture=False).strip("\n"))
    assert (parsed.subjects, parsed.sfx, parsed.bgm) == ([], ["rain on a tin roof"], ["soft music"])


@pytest.mark.parametrize("words", [*NOT_ENGLISH, "", "grass", "A café in Paris"])
def test_what_the_rules_are_not_sure_of_stays(words):
    assert told(words) == words


@pytest.mark.parametrize("forms", [(), ("short",), ("long",), ("short", "long", "structured")])
def test_a_model_that_knows_prose_is_told_prose(forms):
    assert all(enhanced(words, forms, by_rules) == words for words in PROMPTS)


def test_what_is_structured_already_stays():
    structured = StructuredPrompt("a red ball", sfx=("a thud",))
    assert enhanced(structured, ONLY, by_rules) is structured
    for seed in range(5):
        film = sample_film(seed, size=(64, 64), seconds=4)
        caption = captions_of(film, [])["structured"]
        assert is_structured(caption)
        assert told(caption) == caption


def test_shots_are_put_one_by_one():
    shots = (Shot("A red ball falls with a thud", 1.0), Shot(StructuredPrompt("as it is"), 2.0))
    found = enhanced(shots, ONLY, by_rules)
    assert [shot.seconds for shot in found] == [1.0, 2.0]
    assert found[0].prompt.sfx == ("a thud",)
    assert found[1] == shots[1]


def test_labels_are_those_of_the_captions():
    known = {captions._MAIN, captions._OTHER, *captions._LABELS.values(), *captions._OF_SUBJECT.values()}
    assert set(LABELS) == known
    assert [label for label in LABELS if label in captions._LABELS.values()] == list(captions._LABELS.values())


def test_a_call_asks_in_the_form_that_the_model_knows_unless_told_not_to(build):
    spec = build().components.spec
    knows = dataclasses.replace(spec, config=dataclasses.replace(spec.config, trained=Trained(ONLY)))
    words = "A red ball falls with a thud"
    assert prepare(knows, words).prompt == "Main subject: A red ball\nType: ball\nAction: falls\n<sfx>a thud</sfx>"
    assert prepare(knows, words, enhance=None).prompt == prepare(spec, words).prompt == words
    frames = np.zeros((9, 32, 32, 3), np.uint8)
    assert prepare(knows, "make the ball a cube", video=frames, video_use="edit").prompt == "make the ball a cube"
    assert prepare(knows, words, video=frames, seconds=1.0).prompt != words


@pytest.mark.parametrize(
    "words", ["a dog makes " * 1600, "the " + " " * 19_000 + "x", 'the "a" says ' * 1400, "each a " * 2800]
)
def test_twenty_thousand_characters_take_no_time(words):
    start = time.perf_counter()
    assert words_of(told(words)) <= words_of(words)
    assert time.perf_counter() - start < 2
