"""Measures of any clip: sync of picture and sound, sharpness, flicker, loudness, clipping, distances of sets.

AV-Align is that of Yariv et al. 2024 (arXiv 2309.16429), on frame differences in the place of optical flow.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.signal import find_peaks, stft

from pipelines.evaluation.judge.sound import onset_curve
from pipelines.evaluation.judge.sound import onsets as find_onsets
from skyreels.media.motion_events import MotionCurve, MotionEvents
from skyreels.media.sync import measure_sync

CAP_DB = 60.0  # of a PSNR: equal pictures
FULL_SCALE = 0.999


def psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> float:
    """Decibels between uint8 pictures of one shape, over the pixels (..., H, W) where `where`; at most 60."""
    first, second = (values.reshape(-1) if where is None else values[where].reshape(-1) for values in (a, b))
    error = cv2.norm(first, second, cv2.NORM_L2SQR) / first.size if first.size else float("nan")
    return CAP_DB if error <= 0 else min(CAP_DB, float(10 * np.log10(255.0**2 / error)))


def spectral_correlation(a: np.ndarray, b: np.ndarray, sample_rate: int) -> float:
    """Correlation of the log spectrograms of two sounds (C, N), -1 to 1; 60 dB below the loudest counts as silence."""
    length = min(a.shape[1], b.shape[1])
    window = round(0.023 * sample_rate)
    powers = [np.abs(stft(sound[:, :length].mean(0), sample_rate, nperseg=window)[2]) ** 2 for sound in (a, b)]
    floor = max(1e-10, float(powers[0].max()) * 1e-6)
    first, second = (np.log10(power + floor).ravel() for power in powers)
    if first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def event_f1(found: Sequence[float], true: Sequence[float], tolerance_s: float, until_s: float = float("inf")) -> float:
    """F1 of events, matched one to one within the tolerance; 1 where there are none on either side.

    From `until_s` on events may be matched and need not be: a clip that ends does not show what follows a hit.
    """
    gaps = np.abs(np.subtract.outer(np.array(found, float), np.array(true, float)))
    rows, columns = linear_sum_assignment(np.where(gaps <= tolerance_s, gaps, 1e3))
    met = gaps[rows, columns] <= tolerance_s
    alone = np.concatenate([np.delete(found, rows[met]), np.delete(true, columns[met])])
    matched, left = 2 * int(met.sum()), int((alone < until_s).sum())
    return matched / (matched + left) if matched + left else 1.0


def nearest_offsets(found: Sequence[float], true: Sequence[float]) -> list[float]:
    """Seconds from each true event to the nearest that was found; positive: it came late."""
    return [min((time - at for time in found), key=abs) for at in true] if found else []


def motion_peaks(frames: np.ndarray, fps: float) -> tuple[float, ...]:
    """Seconds at which motion is at a local height."""
    curve = _motion(frames, fps)
    if not curve.values.any():
        return ()
    places, _ = find_peaks(curve.values, height=0.3 * float(curve.values.max()))
    return tuple(float(curve.times[place]) for place in places)


def av_align(frames: np.ndarray, fps: float, audio: np.ndarray, sample_rate: int) -> float | None:
    """Intersection over union of motion peaks and onsets within a frame of each other; None where there are neither."""
    peaks, onsets, near = motion_peaks(frames, fps), find_onsets(audio, sample_rate), 1.5 / fps
    if not peaks and not onsets:
        return None
    met = sum(any(abs(peak - onset) <= near for onset in onsets) for peak in peaks)
    also = sum(any(abs(peak - onset) <= near for peak in peaks) for onset in onsets)
    return (met + also) / (len(peaks) + len(onsets))


def sync_offset(frames: np.ndarray, fps: float, audio: np.ndarray, sample_rate: int) -> float | None:
    """Seconds by which the sound is late, by cross-correlation of its onsets with breaks of motion; None: unknown.

    Needs two seconds, as `skyreels.media.sync` does.
    """
    curve = _motion(frames, fps)
    times, rise = onset_curve(audio, sample_rate)
    found = measure_sync(curve.times, curve.values, times, rise, fps)
    return None if found is None else found.offset_s


def sharpness(frames: np.ndarray) -> float:
    """Standard deviation of the Laplacian of the luma, in grey levels; the median of the frames."""
    return float(np.median([cv2.Laplacian(luma, cv2.CV_32F).std() for luma in _luma(frames)]))


def flicker(frames: np.ndarray) -> float:
    """Grey levels by which the whole picture's brightness jumps back and forth from frame to frame."""
    means = _luma(frames).mean((1, 2))
    return float(np.abs(np.diff(means, 2)).mean() / 2) if len(means) > 2 else 0.0


def loudness_db(audio: np.ndarray) -> float:
    """Root mean square in dB of full scale; -100 for silence."""
    return float(10 * np.log10(max(float(np.mean(audio.astype(np.float64) ** 2)), 1e-10)))


def clipping(audio: np.ndarray) -> float:
    """The share of samples at full scale."""
    return float(np.mean(np.abs(audio) >= FULL_SCALE))


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Between Gaussians of features (N, D): |mean difference|^2 + tr(A + B - 2 sqrt(AB)) (Dowson & Landau 1982).

    Comparable only between sets of one size: small ones are far from each other by their size alone.
    """
    for rows in (a, b):
        if rows.ndim != 2 or len(rows) < 2 or not np.isfinite(rows).all():
            raise ValueError(f"features must be finite (N >= 2, D), not {rows.shape}")
    spread_a, spread_b = (np.atleast_2d(np.cov(rows, rowvar=False)) for rows in (a, b))
    # The trace of a root is the sum of the roots of the eigenvalues: it needs no inverse, so few clips suffice.
    roots = np.sqrt(np.clip(np.linalg.eigvals(spread_a @ spread_b).real, 0.0, None)).sum()
    distance = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(spread_a + spread_b) - 2 * roots
    return max(0.0, float(distance))


def picture_features(frames: np.ndarray) -> np.ndarray:
    """(D,) of a clip: an 8 x 8 thumbnail of the middle, its edges and its motion. Cheap, and only for comparisons."""
    small = np.stack([cv2.resize(frame, (8, 8), interpolation=cv2.INTER_AREA) for frame in frames]).astype(np.float32)
    luma = _luma(frames)
    edges = np.stack([cv2.resize(np.abs(cv2.Laplacian(one, cv2.CV_32F)), (4, 4), interpolation=cv2.INTER_AREA)
                      for one in luma])  # fmt: skip
    moved = np.abs(np.diff(small, axis=0)).mean((0, 3)) if len(small) > 1 else np.zeros((8, 8), np.float32)
    middle = cv2.resize(small[len(small) // 2], (4, 4), interpolation=cv2.INTER_AREA)
    return np.concatenate([middle.ravel(), edges.mean(0).ravel(), moved.ravel()]) / 32.0


def _motion(frames: np.ndarray, fps: float) -> MotionCurve:
    events = MotionEvents()
    for number, luma in enumerate(_luma(frames)):
        events.update(cv2.resize(luma, (64, 36), interpolation=cv2.INTER_AREA), number / fps)
    return events.curve()


def _luma(frames: np.ndarray) -> np.ndarray:
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
