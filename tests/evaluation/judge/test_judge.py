"""The judge sees and hears what was drawn and played, and does not see what is not there."""

import cv2
import numpy as np
import pytest

from pipelines.evaluation.films import DEVELOPMENT_SEED, Format, examples
from pipelines.evaluation.judge.path import follow
from pipelines.evaluation.judge.picture import look
from pipelines.evaluation.judge.sound import onsets, sound_class
from pipelines.synthesis.plain import BACKGROUNDS, SHAPES
from pipelines.synthesis.plain import COLOURS as SUBJECT_COLOURS

FORM = Format(17, 16.0, 64, 64)


@pytest.fixture(scope="module")
def films():
    return list(examples(DEVELOPMENT_SEED, 60, FORM, split="any"))


def test_shapes_colours_and_backgrounds_are_told(films):
    seen = [look(film.clip.frames) for film in films]
    assert {film.truth.shape for film in films} == set(SHAPES)
    assert {film.truth.colour for film in films} == set(SUBJECT_COLOURS)
    assert {film.truth.background for film in films} == set(BACKGROUNDS)
    for picture, film in zip(seen, films, strict=True):
        found = (picture.shape, picture.colour, picture.background, picture.count, picture.cuts)
        assert found == (film.truth.shape, film.truth.colour, film.truth.background, 1, ()), film.truth.prompt


@pytest.mark.parametrize(("filled_with", "told"), [("neither", "ring"), ("subject", "circle")])
def test_a_hole_of_another_colour_is_a_hole(films, filled_with, told):
    rings = [film for film in films if film.truth.shape == "ring"][:6]
    for film in rings:
        frames = film.clip.frames.astype(np.float32)
        behind = np.median(frames[:, :2].reshape(-1, 3), axis=0)
        subject = np.abs(frames - behind).sum(-1) > 60
        colour = np.median(frames[subject], axis=0)
        line = colour - behind
        across = np.cross(line, np.where(np.arange(3) == np.argmin(np.abs(line)), 1.0, 0.0))
        other = behind + 0.8 * np.linalg.norm(line) * across / np.linalg.norm(across)
        hole = np.stack([_enclosed(one) for one in subject])
        frames[hole] = colour if filled_with == "subject" else other
        assert look(frames.clip(0, 255).astype(np.uint8)).shape == told, film.truth.prompt


def _enclosed(subject: np.ndarray) -> np.ndarray:
    """(H, W) bool of what (H, W) bool surrounds."""
    _, outside = cv2.connectedComponents((~subject).astype(np.uint8), connectivity=4)
    return ~subject & (outside != outside[0, 0])


def test_places_are_within_a_pixel(films):
    for film in films[:20]:
        gap = np.abs(look(film.clip.frames).centres - film.truth.centres)
        if film.truth.shape != "triangle":  # whose middle of mass is not its centre
            assert np.median(gap) < 1.5 / 64


def test_paths_and_hits_are_told_from_places_alone(films):
    for film in films:
        path = follow(film.truth.centres, FORM.fps)
        assert path.kind == film.truth.motion, film.truth.prompt
        early = [hit for hit in film.truth.hits if hit < FORM.seconds - 0.15]
        assert [min(abs(seen - hit) for seen in path.hits) < 0.05 for hit in early] == [True] * len(early)


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_what_rests_or_jumps_about_moves_in_no_way(spread):
    centres = 0.5 + spread * np.random.default_rng(0).uniform(-1, 1, (17, 2))
    assert follow(centres, 16.0).kind == ("rests" if spread == 0 else None)


def test_a_subject_that_is_seen_too_seldom_has_no_path():
    centres = np.full((17, 2), np.nan)
    centres[:3] = 0.5
    assert follow(centres, 16.0).kind is None


def test_sounds_and_when_they_begin_are_told(films):
    for film in films:
        assert sound_class(film.clip.audio, film.clip.sample_rate) == film.truth.sound, film.truth.prompt
        if film.truth.hits:
            heard = onsets(film.clip.audio, film.clip.sample_rate)
            hits = [hit for hit in film.truth.hits if hit < film.clip.seconds - 0.02]
            assert all(round(abs(a - b), 3) <= 0.02 for a, b in zip(heard, hits, strict=True))


def test_noise_and_black_show_nothing():
    rng = np.random.default_rng(0)
    noise = look(rng.integers(0, 256, (17, 64, 64, 3), np.uint8))
    assert (noise.shape, noise.background, noise.count) == (None, None, 0)
    black = look(np.full((17, 64, 64, 3), 38, np.uint8))
    assert (black.shape, black.colour, black.background, black.count) == (None, None, "black", 0)
    assert onsets(np.zeros((2, 47000), np.float32), 44100) == ()


def test_two_subjects_are_two_and_a_cut_is_a_cut(films):
    first, second = (next(f for f in films if f.truth.background == name).clip.frames for name in ("black", "grey"))
    assert look(np.concatenate([first, second])).cuts == (17,)
    pair = np.full((5, 64, 64, 3), 128, np.uint8)
    pair[:, 10:25, 8:24] = (206, 52, 48)
    pair[:, 40:55, 40:56] = (206, 52, 48)
    assert look(pair).count == 2
