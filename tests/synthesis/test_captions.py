"""Structured captions of films: curation's form, round trips, shots in order of time, bounded however much is heard."""

from dataclasses import replace

import pytest

from pipelines.dataset.captions import StructuredCaption
from pipelines.synthesis.captions import structured
from pipelines.synthesis.film import Overlay
from pipelines.synthesis.sampler import sample_film
from pipelines.synthesis.soundtrack import SoundEvent
from pipelines.synthesis.studio import render


@pytest.mark.parametrize(("shots", "sound"), [(1, "full"), (2, "speech"), (3, "singing")])
def test_they_are_curation_s_form_and_read_back(shots, sound):
    film = sample_film(5, size=(64, 64), seconds=1.5 * shots, shots=shots, sound=sound)
    film = replace(film, overlays=(Overlay("text", "<b>50 % & more</b>"),))
    annotation = render(film).annotation
    for text in (annotation["captions"]["structured"], *(shot["structured"] for shot in annotation["shots"])):
        caption = StructuredCaption.parse(text)
        assert caption.render() == text
        assert caption.text == ["<b>50 % & more</b>"]
        assert [subject.is_main for subject in caption.subjects].count(True) == 1


def test_a_film_tells_its_shots_in_order_and_each_shot_tells_its_own():
    film = sample_film(4, size=(64, 64), seconds=4, shots=2, subjects=2)
    annotation = render(film).annotation
    whole = StructuredCaption.parse(annotation["captions"]["structured"])
    first, second = (StructuredCaption.parse(shot["structured"]) for shot in annotation["shots"])
    assert whole.subjects[0].appearance == first.subjects[0].appearance
    assert {s.appearance for s in whole.subjects} == {s.appearance for s in (*first.subjects, *second.subjects)}
    assert first.environment != second.environment
    assert whole.environment == f"{first.environment}, then {second.environment}"


def test_each_shot_names_the_sounds_and_the_text_of_its_time():
    film = sample_film(4, size=(64, 64), seconds=4, shots=2, subjects=2)
    film = replace(film, overlays=(Overlay("text", "early", end=1.0), Overlay("text", "late", start=3.0)))
    annotation = render(film).annotation
    told = [StructuredCaption.parse(shot["structured"]) for shot in annotation["shots"]]
    assert [caption.text for caption in told] == [["early"], ["late"]]
    border = annotation["cuts"][0]["time"]
    for caption, (start, end) in zip(told, ((0.0, border), (border, 9.0)), strict=True):
        expected = {e["label"] for e in annotation["audio_events"] if e["kind"] == "sfx" and start <= e["start"] < end}
        assert {next(word for word in expected if line.startswith(word)) for line in caption.sfx} == expected


def _hit(label, start):
    return SoundEvent("sfx", label, start, start + 0.1, 0, {})


def test_sounds_come_in_the_order_in_which_they_are_heard_with_their_times():
    events = [_hit("wood impact", 1.0), _hit("bell", 1.25), _hit("wood impact", 1.5)]
    film = sample_film(0, size=(64, 64))
    assert structured(film.shots, (), events, 1.0).sfx == ["wood impact at 0.00 and 0.50 s", "bell at 0.25 s"]


def test_many_sounds_are_counted_and_stay_one_line():
    events = [_hit("wood impact", 0.25 * i) for i in range(500)]
    film = sample_film(0, size=(64, 64))
    assert structured(film.shots, (), events).sfx == ["wood impact 500 times from 0.00 to 124.75 s"]


def test_who_speaks_in_which_language_is_said():
    film = sample_film(2, size=(64, 64), seconds=3.0, sound="speech")
    caption = StructuredCaption.parse(render(film).annotation["captions"]["structured"])
    assert len(caption.dialogue) == len(film.sound.lines)
    for said, line in zip(caption.dialogue, film.sound.lines, strict=True):
        assert said.endswith(f': "{line.text}"')
        assert said.startswith(("the ", "a "))
