"""Where a patch of one sampled frame lies in another, to a part of a pixel."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Box = tuple[int, int, int, int]  # x, y, width, height in pixels

_ALIKE = 0.5  # correlation above which the patch is there again
_STILL = 0.5  # pixels: less is no movement
_RIM = 2  # pixels around a patch that are compared too


class Displacement(NamedTuple):
    """`likeness` is the correlation where the patch fits best, `dx, dy` how far that is from its old place, pixels."""

    likeness: float
    dx: float
    dy: float

    @property
    def stays(self) -> bool:
        return self.likeness >= _ALIKE and bool(np.hypot(self.dx, self.dy) < _STILL)

    @property
    def moved(self) -> bool:
        return self.likeness >= _ALIKE and bool(np.hypot(self.dx, self.dy) >= _STILL)


def displacement(
    before: NDArray[np.float32], after: NDArray[np.float32], box: Box, reach: tuple[int, int]
) -> Displacement:
    """Of the patch `box` of the (H, W) `before`, sought within `reach` (right or left, up or down)."""
    height, width = before.shape
    left, top = max(0, box[0] - _RIM), max(0, box[1] - _RIM)
    right, bottom = min(width, box[0] + box[2] + _RIM), min(height, box[1] + box[3] + _RIM)
    x, y = max(0, left - reach[0]), max(0, top - reach[1])
    around = after[y : bottom + reach[1], x : right + reach[0]]
    fit = cv2.matchTemplate(around, before[top:bottom, left:right], cv2.TM_CCOEFF_NORMED)
    _, likeness, _, (column, row) = cv2.minMaxLoc(fit)
    dx = column + _vertex(fit[row], column) - (left - x)
    dy = row + _vertex(fit[:, column], row) - (top - y)
    return Displacement(likeness, dx, dy)


def _vertex(fit: NDArray[np.float32], at: int) -> float:
    """How far beside `at` the parabola through the three values around it has its top."""
    if not 0 < at < len(fit) - 1:
        return 0.0
    before, here, after = fit[at - 1 : at + 2].tolist()
    bend = before - 2 * here + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0
