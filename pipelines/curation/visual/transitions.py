"""Gradual changes of shot: fades through black or white, and cross-dissolves."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.curation.visual.timeline import BlendCurves, Floats, FrameCurves, Transition

BLEND_HALVES_S = (0.25, 0.5, 1.0)
_CHANGED = 10.0  # levels by which a pixel of a thumbnail changes for more than noise
_LEAST_SHARE = 0.05  # of changed pixels, below which nothing dissolves
_AGREE = 0.15  # of the way that pixels may be apart and still agree
_LONG_ENOUGH = 0.75
_FEWEST = 3  # moments of 1/12 s in a row: fewer are a flicker of light
_PARTLY = (0.2, 0.8)  # weights with which the middle is a mixture
_HALFWAY = (0.35, 0.65)  # and those with which it lacks most of its detail


@dataclass(frozen=True)
class TransitionThresholds:
    """An empty frame has nearly all of its luma within `blank_spread` of black or white; a watermark may lie on it."""

    blank_spread: float = 14.0
    black: float = 40.0
    white: float = 215.0
    min_fade_s: float = 0.12
    max_fade_s: float = 3.0
    mixture: float = 0.33
    max_likeness: float = 0.9  # of what is mixed, before and after: a change of light is no dissolve
    min_superposed: float = 0.5  # of the detail: waves, leaves and rain go halfway too where the light changes


class Blend(NamedTuple):
    """How `middle` is mixed of two other pictures; see `BlendCurves`."""

    mixture: float
    weight: float
    likeness: float


def blend(before: NDArray[np.float32], middle: NDArray[np.float32], after: NDArray[np.float32]) -> Blend:
    """Of three small pictures in order.

    In a dissolve every pixel has gone the same part of its way from `before` to `after`; behind moving things pixels
    have gone all of it or nothing, and each another part where the camera moves.
    """
    way = after - before
    changed = np.abs(way) >= _CHANGED
    share = np.count_nonzero(changed) / changed.size
    if share < _LEAST_SHARE:
        return Blend(0.0, 0.0, 1.0)
    gone = (middle - before)[changed] / way[changed]
    weight = float(np.partition(gone, gone.size // 2)[gone.size // 2])
    agreeing = np.abs(gone - weight) <= _AGREE
    likeness = _correlation(before[changed][agreeing], after[changed][agreeing])
    return Blend(share * np.count_nonzero(agreeing) / gone.size, weight, likeness)


def superposition(weight: float, before: float, middle: float, after: float) -> float:
    """How much of the fine detail is missing that two superposed pictures lack: 1 in a dissolve, 0 within a shot.

    Of mean squared detail. The detail of two pictures that have nothing to do with each other adds up in squares, so a
    mixture has (1 - w)^2 of the one's and w^2 of the other's. What moves keeps its own, and what is lit anew goes
    in a straight line from the one's contrast to the other's.
    """
    if not 0.0 < weight < 1.0:
        return 0.0
    kept = ((1 - weight) * before**0.5 + weight * after**0.5) ** 2
    return (kept - middle) / (2 * weight * (1 - weight) * (before * after) ** 0.5 + 1e-3)


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b) / (float(a @ a) * float(b @ b) + 1.0) ** 0.5


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
    for first, last in runs(blank):
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
    partly = (blends.weight > _PARTLY[0]) & (blends.weight < _PARTLY[1])
    mixture = np.where(partly, blends.mixture, 0.0)
    found: list[Transition] = []
    for first, last in runs(mixture.max(axis=1, initial=0.0) >= thresholds.mixture):
        if last - first + 1 < _FEWEST:
            continue
        strengths = mixture[first : last + 1].max(axis=0)
        # A window shorter than the dissolve sees the same mixture all along: only a long one shows its ends.
        half = int(np.flatnonzero(strengths >= _LONG_ENOUGH * strengths.max())[-1])
        peak = first + int(mixture[first : last + 1, half].argmax())
        clear = np.flatnonzero(mixture[first : last + 1, half] >= _LONG_ENOUGH * strengths.max()) + first
        if np.median(blends.likeness[clear, half]) > thresholds.max_likeness:
            continue
        if _superposed(blends, first, last) < thresholds.min_superposed:
            continue
        start_s, end_s = _dissolve_span(blends, peak, half)
        dissolve = Transition("dissolve", start_s, end_s, float(strengths.max()))
        if found and _overlap(found[-1], dissolve):
            dissolve = max(found.pop(), dissolve, key=lambda transition: transition.strength)
        found.append(dissolve)
    return found


def _superposed(blends: BlendCurves, first: int, last: int) -> float:
    """How surely two pictures lie on each other in the moments `first` to `last`: what the median of those halfway
    says, by the window that says it best. The shortest sees too little of a dissolve."""
    found = [0.0]
    for half in range(1, len(blends.half_s)):
        weight = blends.weight[first : last + 1, half]
        halfway = (weight > _HALFWAY[0]) & (weight < _HALFWAY[1])
        if halfway.any():
            found.append(float(np.median(blends.superposed[first : last + 1, half][halfway])))
    return max(found)


def _dissolve_span(blends: BlendCurves, peak: int, half: int) -> tuple[float, float]:
    """Where the straight line through the weights around `peak` meets 0 and 1, no further than the window reaches."""
    weight, reach = blends.weight[:, half], blends.half_s[half]
    first = last = peak
    while first > 0 and 0.05 < weight[first - 1] < weight[first]:
        first -= 1
    while last + 1 < len(blends) and weight[last] < weight[last + 1] < 0.95:
        last += 1
    centre = float(blends.time_s[peak])
    if last - first < 1:
        return centre - reach / 2, centre + reach / 2
    slope, offset = np.polyfit(blends.time_s[first : last + 1] - centre, weight[first : last + 1], 1).tolist()
    length = min(1.0 / max(slope, 1e-3), 2 * reach)
    middle = centre + min(max((0.5 - offset) / max(slope, 1e-3), -reach), reach)
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


def runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last index of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    return [(int(first), int(end) - 1) for first, end in zip(edges[::2], edges[1::2], strict=True)]


def _overlap(a: Transition, b: Transition) -> bool:
    return a.start_s < b.end_s and b.start_s < a.end_s
