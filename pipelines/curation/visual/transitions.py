"""Gradual changes of shot: fades through black or white, and cross-dissolves."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.curation.visual.timeline import BlendCurves, Floats, FrameCurves, Transition

BLEND_HALVES_S = (0.25, 0.5, 1.0)
_NOISE = 4.0  # luma variance of a thumbnail that is noise and coding


@dataclass(frozen=True)
class TransitionThresholds:
    """An empty frame has nearly all of its luma within `blank_spread` of black or white; a watermark may lie on it."""

    blank_spread: float = 14.0
    black: float = 40.0
    white: float = 215.0
    min_fade_s: float = 0.12
    max_fade_s: float = 3.0
    dissolve_gain: float = 0.2
    min_dissolve_s: float = 0.12


class Blend(NamedTuple):
    """How `middle` is mixed of two other pictures; see `BlendCurves`."""

    gain: float
    weight: float


def blend(before: NDArray[np.float32], middle: NDArray[np.float32], after: NDArray[np.float32]) -> Blend:
    """Least squares of `middle` on its two ends, thumbnails of luma.

    With before = A, after = B unrelated and middle = (A + B) / 2 each end explains half of the variance and both
    all of it: gain 0.5. Camera and object motion are no mixture of ends; a still picture needs only one of them.
    """
    pictures = np.stack([before.ravel(), after.ravel(), middle.ravel()])
    pictures -= pictures.mean(axis=1, keepdims=True)
    (aa, ab, am), (_, bb, bm), (_, _, mm) = (pictures @ pictures.T / pictures.shape[1]).tolist()
    aa, bb, mm = aa + _NOISE, bb + _NOISE, mm + _NOISE
    determinant = aa * bb - ab * ab
    if determinant <= 1e-6 * aa * bb:
        return Blend(0.0, 0.0)
    first, second = (am * bb - bm * ab) / determinant, (bm * aa - am * ab) / determinant
    if first <= 0 or second <= 0:
        return Blend(0.0, 0.0 if second <= 0 else 1.0)
    together = (first * am + second * bm) / mm
    alone = max(am * abs(am) / aa, bm * abs(bm) / bb) / mm
    return Blend(max(0.0, together - alone), second / (first + second))


def find_transitions(frames: FrameCurves, blends: BlendCurves, thresholds: TransitionThresholds) -> list[Transition]:
    """Fades and dissolves in time order; a dissolve that overlaps a fade is the fade."""
    fades = find_fades(frames, thresholds)
    dissolves = [d for d in find_dissolves(blends, thresholds) if not any(_overlap(d, f) for f in fades)]
    return sorted([*fades, *dissolves], key=lambda transition: transition.start_s)


def find_fades(frames: FrameCurves, thresholds: TransitionThresholds) -> list[Transition]:
    """Runs of blank frames with the ramps that lead into and out of them.

    A fade to one colour scales every deviation from it alike, so the frame's standard deviation falls in a straight
    line. A run without such a ramp on either side (a cut to black) is a "blank".
    """
    low, high, std, time_s = frames.luma_low, frames.luma_high, frames.luma_std, frames.time_s
    blank = (high - low <= thresholds.blank_spread) & ((high <= thresholds.black) | (low >= thresholds.white))
    found = []
    for first, last in _runs(blank):
        before = _ramp(std, time_s, first, -1, thresholds.max_fade_s)
        after = _ramp(std, time_s, last, 1, thresholds.max_fade_s)
        ramps_s = (time_s[first] - time_s[before], time_s[after] - time_s[last])
        if max(ramps_s) >= thresholds.min_fade_s:
            found.append(Transition("fade", float(time_s[before]), float(time_s[after]), float(max(ramps_s))))
        else:
            found.append(Transition("blank", float(time_s[first]), float(time_s[last]), 0.0))
    return found


def find_dissolves(blends: BlendCurves, thresholds: TransitionThresholds) -> list[Transition]:
    """Runs of mixtures, stretched to where the later picture's weight reaches 0 and 1."""
    found = []
    for first, last in _runs(blends.gain.max(axis=1) >= thresholds.dissolve_gain) if len(blends) else ():
        row, half = np.unravel_index(int(blends.gain[first : last + 1].argmax()), (last + 1 - first, len(BLEND_HALVES_S)))
        peak = first + int(row)
        start_s, end_s = _dissolve_span(blends, peak, int(half))
        if end_s - start_s >= thresholds.min_dissolve_s:
            found.append(Transition("dissolve", start_s, end_s, float(blends.gain[peak, half])))
    return found


def _dissolve_span(blends: BlendCurves, peak: int, half: int) -> tuple[float, float]:
    """Where the straight line through the weights around `peak` meets 0 and 1."""
    first = last = peak
    while first > 0 and blends.gain[first - 1, half] > 0.05 and blends.weight[first - 1, half] < blends.weight[first, half]:
        first -= 1
    while (
        last + 1 < len(blends)
        and blends.gain[last + 1, half] > 0.05
        and blends.weight[last + 1, half] > blends.weight[last, half]
    ):
        last += 1
    reach = BLEND_HALVES_S[half]
    time_s, weight = blends.time_s[first : last + 1], blends.weight[first : last + 1, half]
    centre = float(blends.time_s[peak])
    if last - first < 1:
        return centre - reach / 2, centre + reach / 2
    slope, offset = np.polyfit(time_s - centre, weight, 1)
    length = min(1.0 / max(slope, 1e-3), 2 * reach)
    middle = centre + (0.5 - float(offset)) / max(slope, 1e-3)
    return middle - length / 2, middle + length / 2


def _ramp(std: Floats, time_s: NDArray[np.float64], edge: int, step: int, max_s: float) -> int:
    """The frame, going from `edge` by `step`, where the standard deviation stops growing in a straight line."""
    at = edge
    while 0 <= at + step < len(std) and abs(time_s[at + step] - time_s[edge]) <= max_s:
        ahead = at + step * 3
        ahead = min(max(ahead, 0), len(std) - 1)
        grown = float(std[at] - std[edge]) / max(1, abs(at - edge))
        growing = float(std[ahead] - std[at]) / max(1, abs(ahead - at))
        if growing <= max(0.3 * grown, 0.02):
            break
        at += step
    return at


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last index of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    return [(int(first), int(end) - 1) for first, end in zip(edges[::2], edges[1::2], strict=True)]


def _overlap(a: Transition, b: Transition) -> bool:
    return a.start_s < b.end_s and b.start_s < a.end_s
