"""Watermarks and logos: edges that stay where they are while the picture changes.

The gradient of a mark is the same in every sample and that of the scenery is not (Dekel et al., "On the effectiveness
of visible watermarks", 2017), so the mean gradient, against the mean of its magnitude, is near one only on a mark.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

_EDGE = 12.0  # luma levels per pixel
_CONSISTENT = 0.85  # share of the gradients' magnitude that points one way
_MIN_SAMPLES = 4
_MIN_EDGE_PIXELS = 25  # of one mark
_RIM = 0.02  # of the short side: scaling and encoding leave fixed edges at the frame's own border


class FixedMarks(NamedTuple):
    """`area` is the share of the picture inside the boxes of fixed marks; `scenery_fixed` the share of all edges
    that stand still, near 1 under a static camera, where nothing can be said about marks."""

    area: float
    scenery_fixed: float


def fixed_marks(lumas: Sequence[NDArray[np.uint8]]) -> FixedMarks | None:
    """From (H, W) samples of equal size, at different times. None for fewer than four: chance edges look fixed."""
    if len(lumas) < _MIN_SAMPLES:
        return None
    shape = lumas[0].shape
    total = np.zeros((2, *shape), np.float32)
    magnitude = np.zeros(shape, np.float32)
    for luma in lumas:
        smooth = cv2.GaussianBlur(luma, (3, 3), 0)
        dx, dy = cv2.Scharr(smooth, cv2.CV_32F, 1, 0), cv2.Scharr(smooth, cv2.CV_32F, 0, 1)
        total[0] += dx
        total[1] += dy
        magnitude += cv2.magnitude(dx, dy)
    magnitude /= len(lumas) * 16.0  # Scharr's kernel weighs a step of one level per pixel with 32
    steady = cv2.magnitude(total[0], total[1]) / (len(lumas) * 16.0)
    rim = max(2, round(_RIM * min(shape)))
    inner = np.zeros(shape, bool)
    inner[rim:-rim, rim:-rim] = True
    edges = (magnitude >= _EDGE) & inner
    fixed = (steady >= _EDGE) & (steady >= _CONSISTENT * magnitude) & inner
    return FixedMarks(_marked_area(fixed), float(fixed.sum() / max(1, edges.sum())))


def _marked_area(fixed: NDArray[np.bool_]) -> float:
    """Share of the picture inside the boxes of clusters of fixed edges."""
    joined = cv2.morphologyEx(fixed.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 9), np.uint8))
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    pixels = np.bincount(labels[fixed], minlength=count)
    area = sum(
        w * h for (_, _, w, h, _), n in zip(boxes[1:].tolist(), pixels[1:], strict=True) if n >= _MIN_EDGE_PIXELS
    )
    return min(1.0, area / fixed.size)
