from dataclasses import replace
from fractions import Fraction
from typing import get_args

import numpy as np
import pytest

from pipelines.synthesis.film import (
    Ambience,
    Film,
    Line,
    MaterialName,
    Motion,
    Music,
    Scene,
    Shot,
    Soundtrack,
    Subject,
    Tone,
)
from pipelines.synthesis.sampler import sample_impact_film
from pipelines.synthesis.soundtrack import record
from pipelines.synthesis.stage import build

RATE = 44100


def scene_of_one(material="wood", motion=Motion("bouncing", (0.5, 0.4), (0.0, 0.0)), **options):  # noqa: B008  (frozen)
    subject = Subject("it", "circle", "red", material=material, motion=motion, **options)
    return Film((Shot(Scene((subject,), seed=2), 3.0),), (64, 64), Fraction(24), seed=3)


@pytest.mark.parametrize("material", get_args(MaterialName))
def test_an_impact_sounds_within_a_millisecond_of_its_time(material):
    film = scene_of_one(material)
    audio, events = record(build(film))
    hits = [event for event in events if event.kind == "sfx"]
    assert len(hits) >= 3
    assert np.abs(audio[:, : round(hits[0].start * RATE)]).max() == 0
    power = np.square(audio).sum(axis=0)
    for hit in hits:
        start = round(hit.start * RATE)
        assert hit.start == pytest.approx(hit.details["exact_time"], abs=1 / RATE)
        # One millisecond after the annotated time is far louder than the one before.
        assert power[start : start + 44].sum() > 4 * power[start - 44 : start].sum()


def test_the_frame_of_an_impact_is_the_first_that_can_show_it():
    film = sample_impact_film(5)
    _, events = record(build(film))
    for event in events:
        if event.kind == "sfx":
            assert (event.frame - 1) / film.fps < event.details["exact_time"] <= event.frame / film.fps + 1 / RATE


def test_hidden_subjects_are_silent():
    audio, events = record(build(scene_of_one(hidden=True)))
    assert np.abs(audio).max() == 0
    assert events == []


def test_an_impact_is_heard_on_the_side_where_it_happens():
    for x, louder in ((0.2, 0), (1.8, 1)):
        film = replace(scene_of_one(motion=Motion("bouncing", (x, 0.4), (0.0, 0.0))), size=(128, 64))
        audio, _ = record(build(film))
        energy = np.square(audio).sum(axis=1)
        assert energy[louder] > 2 * energy[1 - louder]


def test_materials_differ_and_small_bodies_sound_higher():
    def centroid(material, size):
        audio, _ = record(build(scene_of_one(material, size=size)))
        power = np.abs(np.fft.rfft(audio[0])) ** 2
        return (power @ np.fft.rfftfreq(audio.shape[1], 1 / RATE)) / power.sum()

    assert centroid("rubber", 0.1) < centroid("wood", 0.1) < centroid("glass", 0.1)
    assert centroid("metal", 0.05) > 1.2 * centroid("metal", 0.2)


def test_music_plays_its_key():
    film = replace(scene_of_one(), sound=Soundtrack(impacts=False, music=Music(key=57, progression=(0,), tempo=120)))
    audio, events = record(build(film))
    power = np.abs(np.fft.rfft(audio.mean(axis=0))) ** 2
    notes = 69 + 12 * np.log2(np.maximum(np.fft.rfftfreq(audio.shape[1], 1 / RATE), 1.0) / 440.0)
    strength = [power[np.abs(notes - note) < 0.3].sum() for note in range(57, 69)]
    assert sorted(np.argsort(strength)[-3:]) == [0, 4, 7]  # the major chord
    assert [event.kind for event in events] == ["bgm"]


def test_tones_and_ambience_keep_time_and_level():
    track = Soundtrack(False, ambience=Ambience("rain", 0.01), tones=(Tone(1.0, 0.5, 1000.0, 0.4),))
    audio, events = record(build(replace(scene_of_one(), sound=track)))
    quiet, loud = audio[:, :RATE], audio[:, RATE : RATE + RATE // 2]
    assert np.sqrt(np.mean(quiet**2)) == pytest.approx(0.01, rel=0.2)
    peak = np.abs(np.fft.rfft(loud[0])).argmax() * 2
    assert peak == pytest.approx(1000, abs=2)
    assert [(event.kind, event.start, event.end) for event in events] == [("ambience", 0.0, 3.0), ("sfx", 1.0, 1.5)]


def test_everything_at_once_does_not_clip_and_has_the_picture_s_length():
    track = Soundtrack(
        music=Music(level=0.9), ambience=Ambience("surf", 0.3), lines=(Line("Hello.", 0.2, phonetic="helou"),)
    )
    film = replace(scene_of_one("metal"), sound=track)
    audio, events = record(build(film))
    assert audio.shape == (2, film.samples)
    assert 0.8 < np.abs(audio).max() <= 0.9
    assert {event.kind for event in events} == {"bgm", "ambience", "dialogue", "sfx"}
    assert [event.start for event in events] == sorted(event.start for event in events)
