"""Measures of any clip, each against what was built into the clip."""

from itertools import pairwise

import numpy as np
import pytest

from pipelines.evaluation.judge import measures

RATE, FPS = 44100, 16.0


def clicks(times, seconds=3.0):
    sound = np.zeros((1, round(seconds * RATE)), np.float32)
    rng = np.random.default_rng(0)
    for time in times:
        at = round(time * RATE)
        sound[0, at : at + 2000] += 0.5 * rng.standard_normal(2000) * np.exp(-np.arange(2000) / 400)
    return sound


def turns(times, seconds=3.0):
    """A square that turns round at the given times."""
    edges = [0.0, *times, seconds]
    frames = np.zeros((round(seconds * FPS), 48, 64, 3), np.uint8)
    for number in range(len(frames)):
        time, x, way = number / FPS, 20.0, 1
        for start, end in pairwise(edges):
            x += way * 32 * (min(time, end) - start) if time > start else 0.0
            way = -way
        frames[number, 16:32, round(x) : round(x) + 14] = 220
    return frames


def test_psnr_is_what_it_is_defined_as():
    a, b = np.full((2, 4, 4, 3), 100, np.uint8), np.full((2, 4, 4, 3), 110, np.uint8)
    assert measures.psnr(a, b) == pytest.approx(20 * np.log10(255 / 10))
    assert measures.psnr(a, a) == measures.CAP_DB
    only = np.zeros((2, 4, 4), bool)
    only[0, 0, 0] = True
    b[~only] = 100
    assert measures.psnr(a, b, only) == pytest.approx(20 * np.log10(255 / 10))


@pytest.mark.parametrize(
    ("found", "true", "f1"),
    [
        ((), (), 1.0),
        ((0.5,), (), 0.0),
        ((0.5,), (0.55,), 1.0),
        ((0.5,), (0.65,), 0.0),
        ((0.5, 0.52), (0.51,), 2 / 3),  # one to one: a second onset is one too many
        ((0.55, 0.45), (0.5, 0.6), 1.0),  # and matched so that most have a partner
    ],
)
def test_events_are_matched_one_to_one(found, true, f1):
    assert measures.event_f1(found, true, 0.1) == pytest.approx(f1)


def test_an_event_at_the_end_may_be_met_and_need_not_be():
    assert measures.event_f1((0.4, 1.0), (0.4,), 0.1, until_s=0.9) == 1.0
    assert measures.event_f1((0.4, 0.8), (0.4,), 0.1, until_s=0.9) == pytest.approx(2 / 3)


def test_av_align_tells_sound_that_fits_from_sound_that_does_not():
    times = (0.6, 1.1, 1.9, 2.4)
    frames = turns(times)
    fits = measures.av_align(frames, FPS, clicks(times), RATE)
    late = measures.av_align(frames, FPS, clicks([time + 0.25 for time in times]), RATE)
    assert fits > 0.8
    assert late < 0.2


@pytest.mark.parametrize("late_s", [-0.2, 0.0, 0.3])
def test_a_planted_offset_is_found(late_s):
    times = (0.6, 0.9, 1.7, 2.2, 2.5)
    found = measures.sync_offset(turns(times), FPS, clicks([time + late_s for time in times]), RATE)
    assert found == pytest.approx(late_s, abs=1 / FPS)


def test_sync_of_a_clip_too_short_to_say_is_unknown():
    assert measures.sync_offset(turns((0.4,), 1.0), FPS, clicks((0.4,), 1.0), RATE) is None


def test_flicker_and_sharpness_follow_what_is_done_to_a_clip():
    rng = np.random.default_rng(0)
    frames = np.repeat(rng.integers(60, 180, (1, 32, 32, 3), np.uint8), 8, axis=0)
    unsteady = frames.copy()
    unsteady[::2] += 10
    assert measures.flicker(frames) == 0
    assert measures.flicker(unsteady) == pytest.approx(10, rel=0.05)
    assert measures.sharpness(frames) > 5 * measures.sharpness(np.full_like(frames, 90) + frames // 30)


def test_loudness_and_clipping_of_a_sine():
    time = np.arange(RATE) / RATE
    sine = 0.5 * np.sin(2 * np.pi * 440 * time)[None]
    assert measures.loudness_db(sine) == pytest.approx(-9.03, abs=0.01)
    assert measures.loudness_db(np.zeros((1, 100))) == -100
    assert measures.clipping(np.clip(4 * sine, -1, 1)) == pytest.approx(2 / 3, abs=0.01)  # |2 sin| > 1


def test_frechet_distance_of_gaussians_is_the_closed_form():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (20000, 2)), rng.normal((3, 0), (2, 1), (20000, 2))
    assert measures.frechet_distance(a, b) == pytest.approx(9 + 1, rel=0.05)
    assert measures.frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="features"):
        measures.frechet_distance(a[:1], b)


def test_picture_features_tell_clips_apart():
    still, moving = turns((), 1.0)[:1].repeat(8, axis=0), turns((0.5,), 1.0)[:8]
    assert np.linalg.norm(measures.picture_features(still) - measures.picture_features(moving)) > 0.1


def test_spectral_correlation_falls_with_noise():
    sound = clicks((0.3, 1.0, 2.0))
    noise = np.random.default_rng(1).standard_normal(sound.shape).astype(np.float32)
    assert measures.spectral_correlation(sound, sound, RATE) == pytest.approx(1)
    assert measures.spectral_correlation(sound, noise, RATE) < 0.2
    assert measures.spectral_correlation(sound, np.zeros_like(sound), RATE) == 0
