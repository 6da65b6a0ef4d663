"""The plain world: everything in view, everything in the caption, few tokens."""

import json

import numpy as np
import pytest

from model.prompt_encoder.tiny_encoder import train_tokenizer
from pipelines.synthesis.film import COLOURS
from pipelines.synthesis.pairs import make_pair
from pipelines.synthesis.plain import (
    BACKGROUNDS,
    EDITS,
    LONGER,
    SHAPES,
    STYLES,
    plain_choices,
    render_plain,
    sample_plain_film,
)
from pipelines.synthesis.plain import COLOURS as WORN
from pipelines.synthesis.sampler import is_held_out
from pipelines.synthesis.studio import render

SEEDS = range(24)


@pytest.fixture(scope="module")
def films():
    return [render(sample_plain_film(seed, size=(64, 64), fps=16)) for seed in SEEDS]


def test_the_subject_stays_in_view_and_moves(films):
    for film in films:
        (subject,) = film.annotation["subjects"].values()
        boxes = np.array(subject["boxes"], float)
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        assert areas.min() > 0.5 * areas.max()
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        assert np.linalg.norm(centres - centres[0], axis=1).max() > 0.15 * 64


def test_captions_tell_all_of_it_in_few_tokens(films):
    tokenizer = train_tokenizer()
    for film in films:
        scene = film.set.film.shots[0].scene
        (subject,) = scene.subjects
        short = film.annotation["captions"]["short"]
        assert short.startswith(f"A {subject.colour} {subject.shape} ")
        assert f"flat {scene.background.colours[0]} background" in short
        heard = {event["kind"] for event in film.annotation["audio_events"]}
        assert (f"{subject.material} impacts" in short) == ("sfx" in heard)
        assert len(tokenizer.encode(short)) <= 14
        assert len(tokenizer.encode(film.annotation["captions"]["structured"])) <= 75


def test_a_straight_path_is_told_by_its_direction(films):
    told = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}
    seen = set()
    for film in films:
        (subject,) = film.set.film.shots[0].scene.subjects
        if subject.motion.kind == "linear":
            words = film.annotation["captions"]["short"].split(",")[0].split()
            assert words[-2] == "moves"
            assert np.allclose(np.sign(subject.motion.velocity), told[words[-1]])
            assert f"Action: glides {words[-1]}" in film.annotation["captions"]["structured"]
            seen.add(words[-1])
    assert len(seen) >= 3


def test_the_background_has_its_colour(films):
    for film in films:
        name = film.set.film.shots[0].scene.background.colours[0]
        corner = next(iter(film.frames()))[1, 1].astype(float)
        nearest = min(BACKGROUNDS, key=lambda other: np.abs(0.7 * np.array(COLOURS[other]) + 37.5 - corner).sum())
        assert nearest == name


@pytest.mark.parametrize("split", ["train", "held-out"])
def test_combinations_of_shape_and_colour_are_kept_apart(split):
    for seed in range(50):
        (subject,) = sample_plain_film(seed, split=split).shots[0].scene.subjects
        assert is_held_out(subject.shape, subject.colour) == (split == "held-out")


def test_an_empty_film_shows_and_tells_its_background_alone():
    for seed in range(8):
        film = render(sample_plain_film(seed, size=(64, 64), fps=16, empty=True))
        colour = film.set.film.shots[0].scene.background.colours[0]
        frames = np.stack(list(film.frames()))
        assert np.ptp(frames.reshape(-1, 3), axis=0).max() <= 1, "one colour, from the first frame to the last"
        assert film.annotation["captions"]["short"].startswith(f"Flat {colour} background")
        assert not any(shape in film.annotation["captions"]["structured"] for shape in SHAPES)
        assert all(event["kind"] != "sfx" or "impact" not in str(event) for event in film.annotation["audio_events"])


def test_a_world_has_empty_films_and_longer_ones(tmp_path):
    told = [json.loads((tmp_path / f"{name}.json").read_text()) for name in render_plain(tmp_path, 3)]
    assert [bool(film["subjects"]) for film in told] == [False, True, True]
    assert [film["frames"] / 32 > LONGER - 0.1 for film in told] == [False, True, False]


@pytest.mark.parametrize("kind", EDITS)
def test_after_an_edit_a_film_is_still_of_its_world(kind):
    for seed in range(8):
        film = sample_plain_film(seed)
        after = make_pair(film, kind, seed, plain_choices(film)).after.shots[0].scene
        assert {subject.colour for subject in after.subjects} <= set(WORN) - set(after.background.colours)
        assert after.background.kind == "flat"
        assert set(after.background.colours) <= set(BACKGROUNDS)
        assert after.style in ("natural", *STYLES)
