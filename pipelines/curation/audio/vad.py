"""When there is sound, and when it is a voice."""

import numpy as np
from scipy.ndimage import uniform_filter1d

from pipelines.curation.audio.frames import AudioFrames
from pipelines.curation.audio.noise import SOUNDING_DB

Interval = tuple[float, float]

SILENCE_DBFS = -60.0  # nothing below this is called sound
LOUD_QUANTILE = 0.95
ACTIVE_RANGE_DB = 40.0  # below the loud frames
VOICE_RANGE_DB = 30.0
VOICE_OVER_FLOOR_DB = 6.0
VOICED_HARMONICITY = 0.6
VOICED_SHARE = 0.3  # of the frames within half a second around
MOVING_STEP = (0.012, 2.0)  # semitones in 20 ms: a voice's pitch always moves a little, an instrument's stands
MOVING_SHARE = 0.5
NEIGHBOURHOOD_S = 0.5
MERGE_S = 0.3  # a stop consonant or a breath is no pause
SHORTEST_S = 0.2
FRICATIVE_S = 0.1  # speech opens and closes with unvoiced sounds


def active_intervals(frames: AudioFrames) -> list[Interval]:
    """Stretches with sound, seconds on the source's clock: within 40 dB of the loud frames and above -60 dBFS."""
    level_db = _db(frames.power)
    active = level_db > max(np.quantile(level_db, LOUD_QUANTILE) - ACTIVE_RANGE_DB, SILENCE_DBFS)
    return _intervals(active, frames, shortest_s=frames.hop_s)


def silence_ratio(frames: AudioFrames) -> float:
    """Share of the duration that no active interval covers, 0 to 1; pauses under 0.3 s count as sound."""
    sounding = sum(end - start for start, end in active_intervals(frames))
    return float(np.clip(1 - sounding / frames.duration_s, 0, 1))


def dropout_s(frames: AudioFrames) -> float:
    """Longest stretch of digital silence, seconds: a pause leaves the room to be heard, a track that broke nothing."""
    dead = np.concatenate([[False], _db(frames.mean_square) <= SOUNDING_DB, [False]])
    edges = np.flatnonzero(np.diff(dead.astype(np.int8))).reshape(-1, 2)
    return float(np.diff(edges).max(initial=0)) * frames.block_s


def speech_intervals(frames: AudioFrames) -> list[Interval]:
    """Stretches of voice, spoken or sung, seconds on the source's clock.

    A frame votes for voice if it is periodic, within 30 dB of the loud frames and 6 dB above the floor of the voice
    band (300-3400 Hz). Voice is where enough frames within half a second vote and their pitch keeps moving.
    """
    level_db = _db(frames.voice_power)
    floor_db, loud_db = np.quantile(level_db, (0.05, LOUD_QUANTILE))
    audible = level_db > max(loud_db - VOICE_RANGE_DB, min(floor_db + VOICE_OVER_FLOOR_DB, loud_db - 3), SILENCE_DBFS)
    voiced = audible & (frames.harmonicity > VOICED_HARMONICITY)
    follows = voiced & np.append(False, voiced[:-1])
    steps = np.abs(np.diff(12 * np.log2(frames.pitch_hz), prepend=0.0))
    moving = follows & (steps > MOVING_STEP[0]) & (steps < MOVING_STEP[1])
    width = max(1, round(NEIGHBOURHOOD_S / frames.hop_s))
    voiced_share, pairs, moving_pairs = (
        uniform_filter1d(track.astype(np.float32), width, mode="constant") for track in (voiced, follows, moving)
    )
    voice = audible & (voiced_share > VOICED_SHARE) & (moving_pairs > MOVING_SHARE * pairs)
    return _intervals(voice, frames, shortest_s=SHORTEST_S, widen_s=FRICATIVE_S)


def covered_ratio(intervals: list[Interval], duration_s: float) -> float:
    """Share of a duration that disjoint intervals cover, 0 to 1."""
    return float(np.clip(sum(end - start for start, end in intervals) / duration_s, 0, 1)) if duration_s > 0 else 0.0


def _db(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(power + 1e-14)


def _intervals(marked: np.ndarray, frames: AudioFrames, shortest_s: float, widen_s: float = 0.0) -> list[Interval]:
    """Runs of marked frames, joined over gaps below 0.3 s, short ones dropped, then widened and kept inside."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], marked.astype(np.int8), [0]])))
    runs: list[list[float]] = []
    for start, end in (edges.reshape(-1, 2) * frames.hop_s).tolist():
        if runs and start - runs[-1][1] < MERGE_S:
            runs[-1][1] = end
        else:
            runs.append([start, end])
    return [
        (frames.start_s + max(0.0, start - widen_s), frames.start_s + min(frames.duration_s, end + widen_s))
        for start, end in runs
        if end - start >= shortest_s
    ]
