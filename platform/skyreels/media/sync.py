"""Are sound and picture in time with one another? Offset and confidence from when each of them breaks.

Sign: a positive offset means that the sound comes late. Confidence follows the idea of SyncNet (Chung & Zisserman
2016): how far the best offset stands out from the others; near 0 for pairs that have nothing to do with each other.

What is compared is sudden change: impacts, steps, doors, drums that are in the picture. Of most talking heads that
says nothing, and the confidence is low.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter1d

GRID_HZ = 100.0
SEARCH_S = 0.75
NULL_S = 3.0  # offsets up to here, outside the search, show what chance gives
TREND_S = 1.0
SHORTEST_S = 2.0
EDGE_S = 0.05  # the sound track starts and ends with a jump of its own
CHANCE_SIGMA = 2.0  # about the height of the best of some twenty offsets between unrelated curves


@dataclass(frozen=True)
class SyncScores:
    """`offset_s` and `offset_frames` (of `fps`): how late the sound is. `confidence` in sigmas: how far the best offset
    stands above chance, or above the runner-up where that is less; 0 if it does not.

    `peak` is the correlation at that offset, -1 to 1; `runner_up` the highest at offsets more than 100 ms away from it.
    """

    offset_s: float
    offset_frames: float
    confidence: float
    peak: float
    runner_up: float
    method: str = "onset-motion"


def measure_sync(
    motion_times: np.ndarray,
    motion_curve: np.ndarray,
    onset_times: np.ndarray,
    onset_curve: np.ndarray,
    fps: float,
) -> SyncScores | None:
    """Correlate breaks of motion (n,) with onsets of sound (m,), both over times in seconds on one clock.

    None where there is nothing to compare: less than 2 s in common, or one of the curves is flat (a still picture,
    silence). The best offset is refined between the 10 ms steps of the grid by a parabola.
    """
    start = max(motion_times[0], onset_times[0]) + EDGE_S if len(motion_times) and len(onset_times) else 0.0
    end = min(motion_times[-1], onset_times[-1]) - EDGE_S if len(motion_times) and len(onset_times) else 0.0
    if end - start < SHORTEST_S:
        return None
    grid = np.arange(start, end, 1 / GRID_HZ)
    # The square root keeps one flash or cut from being all that counts; onsets are in decibels already.
    motion = _detrended(np.sqrt(np.interp(grid, motion_times, motion_curve)))
    onsets = np.interp(grid, onset_times, onset_curve)
    onsets = _detrended(uniform_filter1d(onsets, max(1, round(GRID_HZ / fps))))
    if not motion.any() or not onsets.any():
        return None
    lags, correlation = _correlation(motion, onsets)
    search = np.abs(lags) <= SEARCH_S
    best = int(np.flatnonzero(search)[np.argmax(correlation[search])])
    away = np.abs(lags - lags[best]) > 0.1
    others = correlation[away]
    middle = np.median(others)
    sigma = np.sqrt(np.mean((others - middle) ** 2))
    runner_up = correlation[away & search].max()
    if abs(lags[best]) > SEARCH_S - 1.5 / GRID_HZ:  # still rising at the end of the search: no peak at all
        runner_up = correlation[best]
    above_chance = (correlation[best] - middle) / sigma - CHANCE_SIGMA
    above_runner_up = (correlation[best] - runner_up) / sigma
    offset = lags[best] + _vertex(correlation, best) / GRID_HZ
    return SyncScores(
        offset_s=float(offset),
        offset_frames=float(offset * fps),
        confidence=float(max(0.0, min(above_chance, above_runner_up))),
        peak=float(correlation[best]),
        runner_up=float(runner_up),
    )


def _detrended(curve: np.ndarray) -> np.ndarray:
    """Less its mean over a second around."""
    rest: np.ndarray = curve - uniform_filter1d(curve, round(TREND_S * GRID_HZ), mode="nearest")
    return rest


def _correlation(motion: np.ndarray, onsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Offsets in seconds and the normalised correlation of motion(t) with onsets(t + offset)."""
    n = len(motion)
    reach = min(round(NULL_S * GRID_HZ), n // 2)
    product = np.fft.irfft(np.conj(np.fft.rfft(motion, 2 * n)) * np.fft.rfft(onsets, 2 * n))
    steps = np.arange(-reach, reach + 1)
    shared = n / (n - np.abs(steps))
    norm = np.sqrt((motion**2).sum() * (onsets**2).sum())
    return steps / GRID_HZ, product[steps] * shared / norm


def _vertex(values: np.ndarray, at: int) -> float:
    """Where between its neighbours the peak of a parabola through `values[at - 1 : at + 2]` lies, -0.5 to 0.5."""
    if not 0 < at < len(values) - 1:
        return 0.0
    before, here, after = values[at - 1 : at + 2]
    bend = before - 2 * here + after
    return float(np.clip((before - after) / (2 * bend), -0.5, 0.5)) if bend < 0 else 0.0
