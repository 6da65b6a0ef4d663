"""Planted offsets between picture and sound are measured to within a frame, and unrelated pairs are not believed."""

import time

import numpy as np
import pytest

from pipelines.curation.audio.frames import audio_frames
from skyreels.media.motion_events import MotionCurve, MotionEvents
from skyreels.media.sync import SyncScores, measure_sync

FPS, RATE, SECONDS = 24, 44100, 6.0
SIZE = (36, 64)


def bouncing(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(n, h, w) uint8 of a bright disc that changes direction at random moments, over sensor noise; and the moments."""
    moments = np.cumsum(rng.uniform(0.25, 0.9, 20))
    moments = moments[moments < SECONDS - 0.2]
    edges = np.concatenate([[0.0], moments, [SECONDS]])
    corners = np.empty((len(edges), 2))
    corners[0] = (18, 32)
    for k, gap in enumerate(np.diff(edges)):
        angle = rng.uniform(0, 2 * np.pi)
        target = corners[k] + 30 * gap * np.array([np.sin(angle), np.cos(angle)])
        corners[k + 1] = np.clip(target, (5, 5), (31, 59))
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    frames = []
    for moment in np.arange(0, SECONDS, 1 / FPS):
        cy, cx = (np.interp(moment, edges, corners[:, axis]) for axis in (0, 1))
        disc = 1 / (1 + np.exp(2 * (np.hypot(y - cy, x - cx) - 4)))
        frames.append(np.clip(40 + 160 * disc + rng.normal(0, 1, SIZE), 0, 255).astype(np.uint8))
    return np.stack(frames), moments


def knocks(moments: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(1, N) short noise bursts over room noise."""
    samples = rng.normal(0, 0.003, round(SECONDS * RATE))
    burst = np.exp(-np.arange(4000) / 700)
    for moment in moments[(moments > 0) & (moments < SECONDS - 0.1)]:
        at = round(moment * RATE)
        samples[at : at + 4000] += rng.uniform(0.2, 0.5) * rng.normal(0, 1, 4000) * burst
    return samples[None].astype(np.float32)


def seen(frames: np.ndarray) -> MotionCurve:
    events = MotionEvents()
    for index, frame in enumerate(frames):
        events.update(frame, index / FPS)
    return events.curve()


def sync(curve: MotionCurve, samples: np.ndarray) -> SyncScores | None:
    heard = audio_frames(samples, RATE)
    return measure_sync(curve.times, curve.values, heard.onset_times_s, heard.onset, FPS)


@pytest.fixture(scope="module")
def clips():
    """Curves of motion, moments of impact."""
    made = [bouncing(np.random.default_rng(seed)) for seed in range(6)]
    return [(seen(frames), moments) for frames, moments in made]


@pytest.mark.parametrize("offset", [-12, -7, -3, -1, 0, 1, 4, 8, 12])
def test_planted_offsets_are_measured_within_a_frame(clips, offset):
    for seed, (curve, moments) in enumerate(clips):
        found = sync(curve, knocks(moments + offset / FPS, np.random.default_rng(seed)))
        assert found.offset_frames == pytest.approx(offset, abs=1), seed
        assert found.offset_s == pytest.approx(found.offset_frames / FPS)


def test_pairs_that_belong_together_are_believed_and_others_are_not(clips):
    own, strange = [], []
    for seed, (curve, moments) in enumerate(clips):
        rng = np.random.default_rng(seed)
        own.append(sync(curve, knocks(moments, rng)).confidence)
        for _ in range(8):
            other = np.cumsum(rng.uniform(0.25, 0.9, 20))
            strange.append(sync(curve, knocks(other, rng)).confidence)
    assert np.mean(np.array(own) > 1.5) >= 0.8
    assert np.mean(np.array(strange) > 1.5) <= 0.12
    assert np.median(strange) < 0.7


def test_there_is_nothing_to_measure_in_silence_or_a_still_picture(clips):
    curve, moments = clips[0]
    samples = knocks(moments, np.random.default_rng(0))
    assert sync(curve, np.zeros_like(samples)) is None
    still = seen(np.full((round(SECONDS * FPS), *SIZE), 90, np.uint8))
    assert not still.values.any()
    assert sync(still, samples) is None
    assert sync(curve.span(0.0, 1.0), samples) is None
    assert measure_sync(np.array([]), np.array([]), np.array([]), np.array([]), FPS) is None


def test_an_offset_beyond_the_search_is_not_believed(clips):
    for seed, (curve, moments) in enumerate(clips):
        assert sync(curve, knocks(moments + 0.8, np.random.default_rng(seed))).confidence < 1.5


def test_a_span_keeps_the_clock(clips):
    curve, moments = clips[1]
    heard = audio_frames(knocks(moments + 5 / FPS, np.random.default_rng(1)), RATE)
    part = curve.span(1.0, 5.5)
    found = measure_sync(part.times, part.values, heard.onset_times_s, heard.onset, FPS)
    assert found.offset_frames == pytest.approx(5, abs=1)


def test_uniform_motion_is_no_event():
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    path = np.interp(np.arange(60), [0, 30, 59], [10, 50, 21.3])  # one turn, at frame 30
    frames = [(40 + 160 / (1 + np.exp(2 * (np.hypot(y - 18, x - cx) - 4)))).astype(np.uint8) for cx in path]
    curve = seen(np.stack(frames))
    assert curve.times[curve.values.argmax()] == pytest.approx(30 / FPS, abs=0.5 / FPS)
    assert np.delete(curve.values, [29, 30, 31]).max() < 0.3 * curve.values.max()


def test_motion_events_are_cheap_and_want_one_size():
    frames = np.random.default_rng(0).integers(0, 255, (300, *SIZE), dtype=np.uint8)
    started = time.process_time()
    seen(frames)
    assert (time.process_time() - started) / len(frames) < 0.5e-3
    events = MotionEvents()
    events.update(frames[0], 0.0)
    with pytest.raises(ValueError, match="one size"):
        events.update(frames[0, :10], 0.04)
