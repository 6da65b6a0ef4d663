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
_TILES = (16, 9)
_MIN_TILE_EDGES = 0.01  # share of a tile's pixels on an edge below which it says nothing


class Sharpness(NamedTuple):
    """0 (no detail finer than the blur) to 1; NaN where nothing in the picture has an edge."""

    overall: float
    peak: float  # of the sharpest tenth of the picture: high where a shallow focus lies on something


def sharpness(luma: NDArray[np.uint8]) -> Sharpness:
    """Of a (H, W) luma plane at its native size."""
    kept = np.zeros(_TILES[::-1], np.float32)
    total = np.zeros_like(kept)
    edges = np.zeros_like(kept)
    for taps, ahead, behind in (
        ((_TAPS, 1), luma[:, 1:], luma[:, :-1]),
        ((1, _TAPS), luma[1:], luma[:-1]),
    ):
        difference = cv2.absdiff(ahead, behind)
        blurred = cv2.blur(luma, taps)
        after = cv2.absdiff(blurred[:, 1:], blurred[:, :-1]) if taps[1] == 1 else cv2.absdiff(blurred[1:], blurred[:-1])
        on_edge = cv2.threshold(difference, _EDGE - 1, 1, cv2.THRESH_BINARY)[1]
        difference = cv2.multiply(difference, on_edge)
        kept += _tile_means(cv2.subtract(difference, after))
        total += _tile_means(difference)
        edges += _tile_means(on_edge)
    if edges.mean() < _MIN_TILE_EDGES / 10:
        return Sharpness(float("nan"), float("nan"))
    textured = edges / 2 >= _MIN_TILE_EDGES
    overall = float(kept.sum() / total.sum())
    if not textured.any():
        return Sharpness(overall, overall)
    tiles = np.sort(kept[textured] / total[textured])
    return Sharpness(overall, float(tiles[-max(1, len(tiles) // 10) :].mean()))


def _tile_means(values: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(9, 16) means; the few pixels beyond a whole number of tiles are left out."""
    height, width = values.shape[0] // _TILES[1], values.shape[1] // _TILES[0]
    whole = values[: height * _TILES[1], : width * _TILES[0]]
    return cv2.resize(whole.astype(np.float32), _TILES, interpolation=cv2.INTER_AREA)
