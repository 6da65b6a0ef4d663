"""Black bars (letterbox, pillarbox): the picture's rectangle inside the frame. Bars are cropped, clips are kept."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

_LIT = 30  # luma above this is not a bar, coding noise included
_STRAY = 0.01  # share of lit pixels that a bar's row may hold: coding errors at its edge
_STEP = 0.5  # share of the picture's length along which a bar's edge must go from black to lit at once
_STEP_ROWS = 4  # "at once", in rows of the profile
_UNEQUAL = 0.04  # most that opposite bars may differ by, as a share of the frame


class CropBox(NamedTuple):
    """In pixels of the upright source picture; even numbers, inside the frame."""

    x: int
    y: int
    width: int
    height: int


def lit_profiles(luma: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Share of lit pixels in every row (H,) and column (W,) of a luma plane; 255 is all of them."""
    lit = cv2.threshold(luma, _LIT, 255, cv2.THRESH_BINARY)[1]
    rows = cv2.reduce(lit, 1, cv2.REDUCE_AVG)[:, 0]
    return rows, cv2.reduce(lit, 0, cv2.REDUCE_AVG)[0]


def crop_box(lit_rows: NDArray[np.uint8], lit_columns: NDArray[np.uint8], width: int, height: int) -> CropBox:
    """The picture without bars, from (N, H') and (N, W') profiles of one clip, in a `width` x `height` frame.

    A bar is black in every sample, its edge is straight over most of the frame, and its opposite is as thick: a
    night sky, a spotlight or one dark moment is no bar.
    """
    whole = CropBox(0, 0, width, height)
    if len(lit_rows) == 0:
        return whole
    top, bottom = _bars(lit_rows.max(axis=0) / 255.0)
    left, right = _bars(lit_columns.max(axis=0) / 255.0)
    # One more row of the profile on each side: the first lit one is a blend of bar and picture.
    x0, x1 = _inside(left, right, lit_columns.shape[1], width)
    y0, y1 = _inside(top, bottom, lit_rows.shape[1], height)
    return CropBox(x0, y0, x1 - x0, y1 - y0) if x1 - x0 >= 16 and y1 - y0 >= 16 else whole


def _bars(lit: NDArray[np.float64]) -> tuple[int, int]:
    """Entries of the profile that are bars at its two ends; (0, 0) if they are not a pair of bars."""
    inside = np.flatnonzero(lit > _STRAY)
    if len(inside) == 0:
        return 0, 0
    first, last = int(inside[0]), len(lit) - 1 - int(inside[-1])
    across = float(np.median(lit[inside[0] : inside[-1] + 1]))
    steps = (lit[inside[0] : inside[0] + _STEP_ROWS].max(), lit[inside[-1] + 1 - _STEP_ROWS : inside[-1] + 1].max())
    straight = min(steps) >= _STEP * max(across, _STEP)
    even = abs(first - last) <= _UNEQUAL * len(lit)
    return (first, last) if min(first, last) > 0 and straight and even else (0, 0)


def _inside(before: int, after: int, entries: int, size: int) -> tuple[int, int]:
    """The span of source pixels between two bars, rounded inwards to even numbers."""
    scale = size / entries
    start = int(np.ceil((before + 1) * scale / 2)) * 2 if before else 0
    end = int((entries - after - 1) * scale) // 2 * 2 if after else size
    return start, end
