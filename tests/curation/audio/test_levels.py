import numpy as np
import pytest

from pipelines.curation.audio.frames import audio_frames
from pipelines.curation.audio.levels import (
    integrated_loudness,
    k_weighting_filters,
    loudness_range,
    mean_volume_db,
    sample_peak_db,
    true_peak_db,
)

# ITU-R BS.1770-5, annex 1, tables 1 and 2 (48 kHz).
HEAD_SHELF = [1.53512485958697, -2.69169618940638, 1.19839281085285, 1, -1.69065929318241, 0.73248077421585]
HIGH_PASS = [1.0, -2.0, 1.0, 1, -1.99004745483398, 0.99007225036621]


def sine(level_db: float, seconds: float, *, hz: float = 1000, rate: int = 48000, channels: int = 2, phase: float = 0):
    wave = 10 ** (level_db / 20) * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate + phase)
    return np.tile(wave, (channels, 1)).astype(np.float32)


def loudness(samples: np.ndarray, rate: int = 48000) -> float:
    return integrated_loudness(audio_frames(samples, rate).k_power)


def test_filters_are_those_of_the_standard():
    assert k_weighting_filters(48000) == pytest.approx(np.array([HEAD_SHELF, HIGH_PASS]), abs=1e-8)


@pytest.mark.parametrize("rate", [16000, 44100, 48000])
def test_full_scale_sine_of_997_hz(rate):
    """BS.1770: 0 dBFS in one front channel reads -3.01 LKFS, so 0 in two."""
    assert loudness(sine(0, 3, hz=997, channels=1, rate=rate), rate) == pytest.approx(-3.01, abs=0.05)
    assert loudness(sine(0, 3, hz=997, channels=2, rate=rate), rate) == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ([(-23, 20)], -23),
        ([(-33, 20)], -33),
        ([(-36, 10), (-23, 60), (-36, 10)], -23),
        ([(-72, 10), (-36, 10), (-23, 60), (-36, 10), (-72, 10)], -23),
        ([(-26, 20), (-20, 20.1), (-26, 20)], -23),
    ],
)
def test_gated_loudness_of_ebu_tech_3341(levels, expected):
    """Test signals 1 to 5 of EBU Tech 3341, tolerance 0.1 LU, on a clock slowed down to keep the test short."""
    samples = np.concatenate([sine(level, seconds / 2, channels=2) for level, seconds in levels], axis=1)
    assert loudness(samples) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(("quiet", "loud", "expected"), [(-30, -20, 10), (-20, -15, 5), (-40, -20, 20)])
def test_loudness_range_of_ebu_tech_3342(quiet, loud, expected):
    """Test signals 1 to 3 of EBU Tech 3342, tolerance 1 LU."""
    samples = np.concatenate([sine(loud, 20), sine(quiet, 20)], axis=1)
    assert loudness_range(audio_frames(samples, 48000).k_power) == pytest.approx(expected, abs=1)


@pytest.mark.parametrize(("hz", "phase"), [(12000, 0), (12000, np.pi / 4), (8000, np.pi / 3), (6000, np.pi / 8)])
def test_true_peak_of_ebu_tech_3341(hz, phase):
    """Test signals 15 to 18: a sine of half full scale at a divisor of the rate peaks at -6.0 dBTP (+0.2, -0.4)."""
    wave = sine(20 * np.log10(0.5), 0.5, hz=hz, phase=phase, channels=1)
    wave *= np.minimum(1, np.arange(wave.shape[1])[::-1] / 2000) * np.minimum(1, np.arange(wave.shape[1]) / 2000)
    assert -6.4 <= true_peak_db(wave) <= -5.8


def test_true_peak_finds_what_lies_between_samples():
    wave = sine(-6, 0.5, hz=12000, phase=np.pi / 4, channels=1)
    assert sample_peak_db(wave) == pytest.approx(-9.01, abs=0.05)
    assert true_peak_db(wave) > -6.2


def test_mean_volume_is_the_root_mean_square_over_channels():
    assert mean_volume_db(sine(0, 1)) == pytest.approx(-3.01, abs=0.01)
    half_silent = np.concatenate([sine(0, 1, channels=1), np.zeros((1, 48000), np.float32)])
    assert mean_volume_db(half_silent) == pytest.approx(-6.02, abs=0.01)


def test_silence_reads_minus_120():
    silence = np.zeros((2, 48000), np.float32)
    levels = mean_volume_db(silence), sample_peak_db(silence), true_peak_db(silence), loudness(silence)
    assert levels == (-120.0,) * 4
