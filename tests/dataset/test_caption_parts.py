"""Captions in parts: a span is told what is true of it, with times from its start, and nothing else."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.dataset.caption_parts import CaptionParts, ShotCaption, TimedLine, filled, forms_of, joined, window
from pipelines.dataset.captions import StructuredCaption

SHOTS = [
    {
        "end_s": 4.0,
        "short": "A fox.",
        "long": "A fox runs.",
        "structured": "Main subject: a fox\nType: animal\nAction: runs",
    },
    {"start_s": 4.0, "end_s": 9.0, "short": "A den.", "long": "A den at night.", "structured": "Environment: a den"},
]
TIMED = [
    {"start_s": 1.0, "end_s": 1.2, "tag": "sfx", "text": "a bark", "sentence": "A bark is heard."},
    {"start_s": 3.0, "end_s": 3.2, "tag": "sfx", "text": "a bark", "sentence": "A bark is heard."},
    {"start_s": 0.0, "end_s": 9.0, "tag": "bgm", "text": "a flute", "sentence": "A flute plays."},
    {"start_s": 5.0, "end_s": 7.0, "tag": "dialogue", "text": 'a woman: "Hush"', "sentence": 'A woman says "Hush".'},
    {"start_s": 3.95, "end_s": 6.0, "tag": "text", "text": "<LATER>"},
]
FILM = CaptionParts.model_validate({"shots": SHOTS, "timed": TIMED})


def test_a_clip_of_one_shot_is_told_that_shot_with_times_of_its_own():
    told = FILM.between(0.5, 4.0).forms()
    assert told["short"] == "A fox."
    assert told["long"] == "A fox runs. A flute plays. A bark is heard."
    assert told["structured"] == (
        "Main subject: a fox\nType: animal\nAction: runs\n<sfx>a bark at 0.50 and 2.50 s</sfx>\n<bgm>a flute</bgm>"
    )


def test_what_lies_outside_is_not_told():
    told = FILM.between(4.0, 9.0).forms()
    assert "bark" not in " ".join(told.values())
    assert told["structured"] == (
        'Environment: a den\n<text>&lt;LATER&gt;</text>\n<dialogue>a woman: "Hush"</dialogue>\n<bgm>a flute</bgm>'
    )


@pytest.mark.parametrize(("start", "end", "said"), [(4.0, 5.9, False), (4.0, 6.1, True), (6.1, 9.0, False)])
def test_words_are_told_where_most_of_them_are_spoken(start, end, said):
    assert ("Hush" in FILM.between(start, end).forms()["long"]) is said


def test_a_few_frames_of_another_shot_are_not_told():
    assert FILM.between(3.95, 8.0).forms()["short"] == "A den."


def test_several_shots_are_told_in_order_of_time():
    told = FILM.between(2.0, 9.0).forms()
    assert told["short"] == "A fox; then A den."
    assert told["long"].startswith("Shot 1: A fox runs. Shot 2: A den at night. ")
    both = StructuredCaption.parse(told["structured"])
    assert (both.subjects[0].action, both.environment, both.sfx) == ("runs", "a den", ["a bark at 1.00 s"])


def test_a_caption_that_does_not_reach_a_clip_says_nothing_of_it():
    assert FILM.between(9.5, 12.0).forms() == {}


def test_a_structured_form_of_ones_own_is_told_as_it_stands():
    parts = CaptionParts(shots=[ShotCaption(structured="[fox] {runs}")], timed=FILM.timed[:1])
    assert parts.forms() == {"structured": "[fox] {runs}\n<sfx>a bark at 1.00 s</sfx>"}


def test_of_several_captions_each_form_is_the_first_that_there_is():
    first, second = CaptionParts(shots=[ShotCaption(long="mine")]), FILM.between(4.0, 9.0)
    told = forms_of([first, second])
    assert (told["long"], told["short"]) == ("mine", "A den.")


def test_pieces_that_are_joined_are_told_one_after_another():
    piece = FILM.between(0.5, 2.0)
    told = joined([(piece, 1.5), (piece, 1.5)]).forms()
    assert told["structured"].count("<sfx>a bark at 0.50 and 2.00 s</sfx>") == 1
    assert told["short"] == "A fox."


def test_a_picture_shows_text_and_sounds_like_nothing():
    assert FILM.between(5.0, 5.0).forms() == {
        "short": "A den.",
        "long": "A den at night.",
        "structured": "Environment: a den\n<text>&lt;LATER&gt;</text>",
    }


def test_a_window_is_told_its_own_part_and_keeps_what_is_not_made_of_parts():
    clip = FILM.between(0.5, 4.0)
    captions = clip.forms() | {"short": "A captioner's words."}
    told = window(captions, [clip], 1.5, 3.0)
    assert told["short"] == "A captioner's words."
    assert told["structured"].endswith("<sfx>a bark at 1.00 s</sfx>\n<bgm>a flute</bgm>")
    assert window(filled({"short": "x"}), [CaptionParts(shots=[ShotCaption(short="x")])], 0.0, 1.0) == dict.fromkeys(
        ("short", "long", "structured"), "x"
    )


def test_a_line_that_ends_before_it_starts_is_refused():
    with pytest.raises(ValueError, match="ends at 1 s, before it starts at 2 s"):
        TimedLine(start_s=2, end_s=1, text="x")


@given(st.floats(0, 8.8), st.floats(0.15, 9), st.floats(0, 1), st.floats(0.2, 1))
def test_a_window_of_a_clip_is_told_what_the_same_span_of_the_source_is(start, seconds, at, share):
    end = min(9.0, start + seconds)
    first = start + at * (end - start) * (1 - share)
    last = first + share * (end - start)
    clip = FILM.between(start, end)
    window = clip.between(first - start, last - start).forms()
    for times in re.findall(r"a bark at (.*) s<", window.get("structured", "")):
        assert all(0 <= float(time) <= last - first + 0.01 for time in re.findall(r"[\d.]+", times))
    for line in FILM.timed:
        if line.tag == "sfx" and not start <= line.start_s < end:
            assert f"{line.start_s - start:.2f}" not in window.get("structured", "")
