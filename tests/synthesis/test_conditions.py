"""What natural footage goes through, measured on the pictures and the sound themselves."""

import cv2
import numpy as np
import pytest

from pipelines.synthesis import conditions
from pipelines.synthesis.textures import fractal_noise

FPS = 24.0


def still(count: int, height: int = 150, width: int = 200) -> list[np.ndarray]:
    noise = fractal_noise(height, width, np.random.default_rng(0), coarsest=40, decay=0.8)
    picture = np.clip(120 + 35 * noise, 0, 255).astype(np.uint8)
    return [np.repeat(picture[..., None], 3, axis=2)] * count


def test_a_hand_moves_the_whole_picture_a_little():
    frames = list(conditions.hold(still(48), (160, 120), FPS, seed=1))
    assert {frame.shape for frame in frames} == {(120, 160, 3)}
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) for frame in frames]
    inner = slice(12, -12)
    shifts = []
    for other in gray[1:]:
        fit = cv2.matchTemplate(other, gray[0][inner, inner], cv2.TM_CCOEFF_NORMED)
        assert fit.max() > 0.9
        shifts.append(np.hypot(*(np.unravel_index(fit.argmax(), fit.shape) - np.array([12, 12]))))
    assert 2 < max(shifts) < 12
    assert np.abs(np.diff(shifts)).max() < 3


def test_flicker_and_exposure_change_the_light_and_nothing_else():
    mean = np.array([frame.mean() for frame in conditions.flicker(still(48), FPS, depth=0.1)])
    assert 0.05 < mean.std() / mean.mean() < 0.15
    dark, *_, light = conditions.adapt_exposure(still(48), FPS, first=0.6)
    assert dark.mean() / light.mean() == pytest.approx(0.6, abs=0.02)
    assert np.corrcoef(dark.ravel(), light.ravel())[0, 1] > 0.99


def test_rain_falls_elsewhere_in_every_frame():
    plain = still(2)
    wet = [frame.astype(int) - plain[0] for frame in conditions.rain(plain, drops=60)]
    assert all(change.min() >= 0 and 0.01 < (change.max(axis=2) > 10).mean() < 0.3 for change in wet)
    assert abs(np.corrcoef(wet[0].ravel(), wet[1].ravel())[0, 1]) < 0.3


def test_waves_run_and_are_never_the_same_again():
    frames = [f.astype(float).mean(axis=2) for f in conditions.water((160, 120), FPS, 48, seed=2)]
    near, far = (np.corrcoef(frames[0].ravel(), frames[n].ravel())[0, 1] for n in (1, 40))
    assert near > 0.8
    assert far < 0.6


def test_a_pause_is_quiet_and_not_dead():
    tone = np.sin(np.arange(44_100) * 0.06, dtype=np.float32)[None]
    paused = conditions.pause(tone, 0.3, 0.4)
    level = 20 * np.log10(np.sqrt(np.mean(np.square(paused[:, 14_000:30_000]))))
    assert level == pytest.approx(-65, abs=0.5)
    assert np.array_equal(paused[:, :13_000], tone[:, :13_000])
    assert np.array_equal(paused[:, 31_000:], tone[:, 31_000:])
