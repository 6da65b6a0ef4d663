"""Hard cuts: PySceneDetect's adaptive detector on the shared frames, as a curve first and a decision later."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.curation.visual.duplicates import repeated
from pipelines.curation.visual.timeline import Cut, FrameCurves, Transition


@dataclass(frozen=True)
class CutThresholds:
    """`adaptive_ratio` to `min_shot_s` mean what they mean in PySceneDetect's AdaptiveDetector.

    `min_step` is the smallest colour difference (0-255) between the frames 2 before and 1 after a cut: a camera
    flash jumps in content and comes back, a cut does not.
    """

    adaptive_ratio: float = 3.0
    window: int = 2
    min_content_change: float = 15.0
    min_shot_s: float = 0.25
    min_step: float = 8.0


class ContentChange:
    """PySceneDetect's content value: the mean absolute difference of hue, saturation and value, 0-255.

    One norm over the interleaved planes instead of three over split ones: the same number, much sooner.
    """

    def __init__(self) -> None:
        self._last: NDArray[np.uint8] | None = None

    def __call__(self, hsv: NDArray[np.uint8]) -> float:
        change = 0.0 if self._last is None else cv2.norm(hsv, self._last, cv2.NORM_L1) / hsv.size
        self._last = hsv
        return change


def adaptive_ratio(content_change: NDArray[np.floating], window: int, min_content_change: float) -> NDArray[np.float64]:
    """Each frame's change over the mean change of `window` frames before and after it, at most 255.

    The first and last `window` frames have no such mean and get 0.
    """
    change = content_change.astype(np.float64)
    ratio = np.zeros_like(change)
    span = 2 * window + 1
    if len(change) < span:
        return ratio
    around = (np.convolve(change, np.ones(span), "valid") - change[window:-window]) / (2 * window)
    target = change[window:-window]
    quiet = np.abs(around) < 1e-5
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio[window:-window] = np.where(
            quiet, np.where(target >= min_content_change, 255.0, 0.0), np.minimum(target / around, 255.0)
        )
    return ratio


def find_cuts(frames: FrameCurves, transitions: list[Transition], thresholds: CutThresholds) -> list[Cut]:
    """Hard cuts in time order, none of them inside a gradual transition."""
    # A repeated frame says nothing: between two of them every step of a moving picture would stand out.
    fresh = ~repeated(frames.block_change)
    ratio = np.zeros(len(frames))
    ratio[fresh] = adaptive_ratio(frames.content_change[fresh], thresholds.window, thresholds.min_content_change)
    candidates = (ratio >= thresholds.adaptive_ratio) & (frames.content_change >= thresholds.min_content_change)
    candidates &= frames.step_change >= thresholds.min_step
    cuts = [Cut(int(i), float(frames.time_s[i]), float(ratio[i])) for i in np.flatnonzero(candidates)]
    return keep_cuts(cuts, frames.time_s, transitions, thresholds.min_shot_s)


def keep_cuts(
    candidates: list[Cut], time_s: NDArray[np.float64], transitions: list[Transition], min_shot_s: float
) -> list[Cut]:
    """Those outside of transitions that leave every shot at least `min_shot_s`; `time_s` is of all frames."""
    kept: list[Cut] = []
    last_s = float(time_s[0]) if len(time_s) else 0.0
    for cut in candidates:
        inside = any(t.start_s < cut.time_s <= t.end_s for t in transitions)
        if cut.time_s - last_s >= min_shot_s and not inside:
            kept.append(cut)
            last_s = cut.time_s
    return kept
