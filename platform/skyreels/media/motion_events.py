"""When something sudden happens in the picture: impacts, stops, turns, flashes. The visual half of sync."""

from array import array
from collections import deque
from dataclasses import dataclass

import numpy as np

NEIGHBOURHOOD_FRAMES = 31


@dataclass(frozen=True)
class MotionCurve:
    """`values[i]` is how far the picture around `times[i]` breaks with uniform motion, in grey levels."""

    times: np.ndarray  # (n,) float64, seconds
    values: np.ndarray  # (n,) float32, >= 0

    def span(self, start_s: float, end_s: float) -> "MotionCurve":
        inside = (self.times >= start_s) & (self.times < end_s)
        return MotionCurve(self.times[inside], self.values[inside])


class MotionEvents:
    """Takes every frame of a decode pass as small luma (about 64 x 36) and keeps two numbers of each.

    >>> events = MotionEvents()
    >>> for luma, time_s in frames: events.update(luma, time_s)     # (h, w) uint8, times rising
    >>> curve = events.curve()
    """

    def __init__(self) -> None:
        self._times, self._steps = array("d"), array("f")
        self._before: deque[np.ndarray] = deque(maxlen=2)

    def update(self, luma: np.ndarray, time_s: float) -> None:
        frame = luma.astype(np.int16)
        if self._before and self._before[-1].shape != frame.shape:
            raise ValueError(
                f"frame of {frame.shape} after {self._before[-1].shape}: give one size throughout a source"
            )
        one = np.abs(frame - self._before[-1]).mean() if self._before else 0.0
        two = np.abs(frame - self._before[0]).mean() if len(self._before) == 2 else one
        self._times.append(time_s)
        self._steps.extend((one, two))
        self._before.append(frame)

    def curve(self) -> MotionCurve:
        return motion_curve(*self.steps())

    def steps(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Times, and each frame's mean difference to the one before and the second one before: `motion_curve`'s."""
        steps = np.array(self._steps, np.float32).reshape(-1, 2)
        return np.array(self._times), steps[:, 0], steps[:, 1]


def motion_curve(times: np.ndarray, one: np.ndarray, two: np.ndarray) -> MotionCurve:
    """Breaks of motion from the mean |difference| of each frame to the one before and the second one before, (n,) each.

    In uniform motion successive steps are equal and two steps are as far as their sum. A stop, a start or a flash
    makes neighbouring steps differ; a bounce brings the picture back, so that two steps are less than their sum. What
    is usual within half a second around (sensor noise, flicker) is taken off.
    """
    if len(times) < 3:
        return MotionCurve(times, np.zeros(len(times), np.float32))
    into, out_of, across = one[1:-1], one[2:], two[2:]
    breaks = np.abs(out_of - into) + np.maximum(into + out_of - across, 0)
    breaks[0] = 0.0  # the first step has no step before it
    padded = np.pad(breaks, NEIGHBOURHOOD_FRAMES // 2, mode="reflect" if len(breaks) > NEIGHBOURHOOD_FRAMES else "edge")
    usual = np.median(np.lib.stride_tricks.sliding_window_view(padded, NEIGHBOURHOOD_FRAMES), axis=1)
    values = np.pad(np.maximum(breaks - usual, 0), 1)
    return MotionCurve(times, values.astype(np.float32))
