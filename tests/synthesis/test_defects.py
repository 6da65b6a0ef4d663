from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
from scipy import signal

from pipelines.synthesis import defects
from pipelines.synthesis.film import Camera
from pipelines.synthesis.render import frames
from pipelines.synthesis.sampler import sample_film
from pipelines.synthesis.stage import build

RATE = 44100
CLIP = sample_film(8, size=(128, 128), seconds=1.0)
FILM = replace(CLIP, shots=(replace(CLIP.shots[0], camera=Camera("pan", 0.2)),))


@pytest.fixture(scope="module")
def shown():
    return list(frames(build(FILM)))


@pytest.fixture(scope="module")
def sound():
    return (0.3 * np.random.default_rng(0).normal(0, 0.3, (2, RATE))).astype(np.float32)


def motion(pictures):
    return np.abs(np.diff(np.stack(list(pictures)).astype(int), axis=0)).mean(axis=(1, 2, 3))


def sharpness(picture):
    return cv2.Laplacian(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var()


def test_blur_takes_the_detail_away(shown):
    for clear, blurred in zip(shown, defects.blur(shown), strict=True):
        assert sharpness(blurred) < 0.05 * sharpness(clear)


def test_exposure_moves_the_light_by_stops(shown):
    assert np.mean(list(defects.expose(shown, 2.5))) > 200
    assert np.mean(list(defects.expose(shown, -4.5))) < 35
    mid = np.full((2, 2, 3), 100, np.uint8)
    linear = (np.array([next(defects.expose([mid], 1.0))[0, 0, 0], 100]) / 255) ** 2.2
    assert linear[0] / linear[1] == pytest.approx(2.0, rel=0.03)


def test_repeated_frames_stand_still_between_steps(shown):
    still = motion(defects.repeat_frames(shown, 4)) == 0
    assert list(still) == [(k + 1) % 4 != 0 for k in range(len(shown) - 1)]


def test_a_frozen_film_has_only_noise(shown):
    assert motion(frames(build(defects.freeze(FILM)))).max() < 4  # two draws of the grain
    assert (motion(frames(build(defects.freeze(FILM)))) > 0).all()


def test_a_shaken_film_goes_to_and_fro():
    empty = replace(FILM, shots=(replace(FILM.shots[0], scene=replace(FILM.shots[0].scene, subjects=())),))

    def steps(pictures):
        grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) for picture in pictures]
        detail = [picture - cv2.GaussianBlur(picture, (0, 0), 6) for picture in grey]
        window = cv2.createHanningWindow((128, 128), cv2.CV_32F)
        return np.array([cv2.phaseCorrelate(a, b, window)[0][0] for a, b in pairwise(detail)])

    def turns(moves):
        return int((np.diff(np.sign(moves[np.abs(moves) > 0.5])) != 0).sum())

    assert turns(steps(frames(build(empty)))) <= 1
    assert turns(steps(frames(build(defects.shake(empty))))) >= 4


def test_near_duplicates_resemble_the_original_and_are_not_it(shown):
    for changed in (defects.crop(shown), defects.brighten(shown)):
        for old, new in zip(shown, changed, strict=True):
            assert new.shape == old.shape
            assert (new != old).any()
            small = [
                cv2.resize(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY), (9, 9), interpolation=cv2.INTER_AREA)
                for p in (old, new)
            ]
            assert np.corrcoef(small[0].ravel(), small[1].ravel())[0, 1] > 0.8


def test_clipping_puts_the_share_at_full_scale(sound):
    clipped = defects.clip_sound(sound, 0.2)
    assert (np.abs(clipped) >= 0.9999).mean() == pytest.approx(0.2, abs=0.01)
    with pytest.raises(ValueError, match="silent"):
        defects.clip_sound(np.zeros((1, 100), np.float32))


@pytest.mark.parametrize("snr", [0.0, 10.0])
def test_noise_has_the_stated_ratio(snr):
    tone = (0.2 * np.sin(np.arange(RATE) * 0.1))[None].astype(np.float32)
    noise = defects.add_noise(tone, snr, seed=1) - tone
    assert 10 * np.log10((tone**2).mean() / (noise**2).mean()) == pytest.approx(snr, abs=0.3)


def test_mute_and_bandwidth(sound):
    muted = defects.mute(sound, 0.25)
    assert np.abs(muted[:, int(0.75 * RATE) + 1 :]).max() == 0
    assert (muted[:, : int(0.75 * RATE)] == sound[:, : int(0.75 * RATE)]).all()
    hertz, power = signal.welch(defects.limit_bandwidth(sound, RATE, 3400.0)[0], RATE, nperseg=1024)
    assert power[hertz > 5000].max() < 1e-4 * power[(hertz > 500) & (hertz < 3000)].mean()


@pytest.mark.parametrize("samples", [0, 700, -700])
def test_shifted_sound_is_late_by_its_shift(sound, samples):
    shifted = defects.shift_sound(sound, samples)
    assert shifted.shape == sound.shape
    lag = signal.correlate(shifted[0], sound[0], mode="full").argmax() - (sound.shape[1] - 1)
    assert lag == samples
    with pytest.raises(ValueError, match="leaves nothing"):
        defects.shift_sound(sound, RATE)
