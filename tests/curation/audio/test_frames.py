from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.curation.audio.frames import TRACKS, AudioTimeline, audio_frames

RATE = 16000


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 40000) | st.just(200_000), min_size=1, max_size=8), st.integers(0, 2**31))
def test_any_blocks_give_the_frames_of_the_whole(sizes, seed):
    samples = np.random.default_rng(seed).normal(0, 0.1, (2, sum(sizes))).astype(np.float32)
    timeline = AudioTimeline(RATE)
    for block in np.split(samples, np.cumsum(sizes)[:-1], axis=1):
        timeline.update(block)
    streamed, whole = timeline.finish(), audio_frames(samples, RATE)
    for name in TRACKS:
        assert getattr(streamed, name) == pytest.approx(getattr(whole, name), rel=1e-3, abs=1e-3), name


def test_tracks_have_the_promised_lengths():
    frames = audio_frames(np.zeros((1, 3 * 44100), np.float32), 44100)
    assert len(frames.power) == len(frames.pitch_hz) == 150
    assert len(frames.onset) == 300
    assert frames.band_db.shape == (30, 89)
    assert frames.duration_s == pytest.approx(3.0)


def test_power_is_the_mean_square_and_lies_in_the_right_band():
    wave = 0.5 * np.sin(2 * np.pi * 1100 * np.arange(2 * RATE) / RATE)
    frames = audio_frames(wave[None], RATE)
    assert frames.power[5:-5] == pytest.approx(0.125, rel=0.01)
    assert frames.mean_square == pytest.approx(0.125, rel=0.01)
    assert (frames.band_db.argmax(axis=1) == 4).all()  # 1000 to 1250 Hz


@pytest.mark.parametrize("hz", [82.4, 110.0, 220.0, 440.0, 880.0])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_pitch_of_a_harmonic_tone(hz, rate):
    t = np.arange(rate) / rate
    wave = sum(np.sin(2 * np.pi * hz * k * t) / k for k in range(1, 8)) * 0.1
    frames = audio_frames(wave[None], rate)
    assert np.median(frames.pitch_hz) == pytest.approx(hz, rel=0.01)
    assert np.median(frames.harmonicity) > 0.9
    assert np.median(frames.stability) > 0.9


def test_noise_has_no_pitch_and_no_stability():
    frames = audio_frames(np.random.default_rng(0).normal(0, 0.1, (1, 2 * RATE)), RATE)
    assert np.median(frames.harmonicity) < 0.4
    assert abs(np.median(frames.stability)) < 0.1


def test_a_span_is_the_same_tracks_on_the_same_clock():
    frames = audio_frames(np.random.default_rng(0).normal(0, 0.1, (1, 5 * RATE)), RATE, start_s=10.0)
    span = frames.span(12.0, 13.5)
    assert (span.start_s, span.duration_s) == (pytest.approx(12.0), pytest.approx(1.5))
    assert np.array_equal(span.power, frames.power[100:175])
    assert np.array_equal(span.onset, frames.onset[200:350])
    assert np.array_equal(span.band_db, frames.band_db[20:35])


def test_two_hours_stay_small():
    timeline = AudioTimeline(44100)
    timeline.update(np.random.default_rng(0).normal(0, 0.1, (2, 20 * 44100)).astype(np.float32))
    frames = timeline.finish()
    held = sum(getattr(frames, field.name).nbytes for field in fields(frames) if field.name in TRACKS)
    assert held / 20 * 7200 < 45e6


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(100, np.float32), "channels, samples"),
        (np.full((1, 100), np.nan, np.float32), "NaN"),
    ],
)
def test_damaged_samples_are_refused(samples, message):
    with pytest.raises(ValueError, match=message):
        audio_frames(samples, RATE)


def test_what_cannot_be_analysed_is_refused():
    with pytest.raises(ValueError, match="no samples"):
        AudioTimeline(RATE).finish()
    with pytest.raises(ValueError, match="8000 Hz"):
        AudioTimeline(4000)
    timeline = AudioTimeline(RATE)
    timeline.update(np.zeros((2, 100), np.float32))
    with pytest.raises(ValueError, match="from 2 to 1 channels"):
        timeline.update(np.zeros((1, 100), np.float32))
