"""Sharpness that does not depend on what is shown: how much a second blur takes away.

After Crete et al., "The blur effect" (2007): blurring a sharp picture changes the differences between neighbouring
pixels a lot, blurring a blurred one hardly at all. Only pixels on an edge count, so a plain wall is not blurred.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

_TAPS = 9
_EDGE = 6  # smallest difference of neighbours, in luma levels, that is more than noise and coding
_FLAT = 5.0  # standard deviation of luma below which there is nothing to see
_TILES = 12  # a side
_MIN_TILE_EDGES = 0.01  # share of a tile's pixels on an edge below which it says nothing

Tiles = NDArray[np.float32]


class Sharpness(NamedTuple):
    """0 (no detail finer than the blur) to 1; NaN for a flat picture, which has nothing to be sharp."""

    overall: float
    peak: float  # of the sharpest tenth of the picture: high where a shallow focus lies on something


def sharpness(luma: NDArray[np.uint8]) -> Sharpness:
    """Of a (H, W) luma plane at its native size; every fourth row and column are enough. NaN below 48 pixels a side."""
    if min(luma.shape) < 4 * _TILES:
        return Sharpness(float("nan"), float("nan"))
    along_rows = _edge_sums(luma[::4])
    along_columns = _edge_sums(np.ascontiguousarray(luma[:, ::4].T))
    kept, total, edges = (rows + columns.T for rows, columns in zip(along_rows, along_columns, strict=True))
    if edges.mean() < _MIN_TILE_EDGES / 10:
        value = 0.0 if cv2.meanStdDev(luma)[1][0, 0] >= _FLAT else float("nan")
        return Sharpness(value, value)
    textured = edges / 2 >= _MIN_TILE_EDGES
    overall = float(kept.sum() / total.sum())
    if not textured.any():
        return Sharpness(overall, overall)
    tiles = np.sort(kept[textured] / total[textured])
    return Sharpness(overall, float(tiles[-max(1, len(tiles) // 10) :].mean()))


def _edge_sums(luma: NDArray[np.uint8]) -> tuple[Tiles, Tiles, Tiles]:
    """Per tile, along the rows: edge contrast that a blur takes away, edge contrast, share of pixels on an edge."""
    blurred = cv2.blur(luma, (_TAPS, 1))
    before = cv2.absdiff(luma[:, 1:], luma[:, :-1])
    after = cv2.absdiff(blurred[:, 1:], blurred[:, :-1])
    on_edge = cv2.threshold(before, _EDGE - 1, 1, cv2.THRESH_BINARY)[1]
    before = cv2.multiply(before, on_edge)
    return _tile_means(cv2.subtract(before, after)), _tile_means(before), _tile_means(on_edge)


def _tile_means(values: NDArray[np.uint8]) -> Tiles:
    """(12, 12) means; the few pixels beyond a whole number of tiles are left out."""
    height, width = values.shape[0] // _TILES, values.shape[1] // _TILES
    corners = cv2.integral(values)[: height * _TILES + 1 : height, : width * _TILES + 1 : width]
    sums = corners[1:, 1:] - corners[:-1, 1:] - corners[1:, :-1] + corners[:-1, :-1]
    return (sums / (height * width)).astype(np.float32)
