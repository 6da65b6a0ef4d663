"""Watermarks and logos: dense edges that stay where they are while the picture changes.

The gradient of a mark is the same in every sample and that of the scenery is not (Dekel et al., "On the effectiveness
of visible watermarks", 2017), so the mean gradient is as large as the root mean square one only on a mark.
Scenery that happens to stand still leaves sparse outlines, letters and emblems fill their box.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.overlays.matching import Box, displacement

_EDGE = 5.0  # luma levels per pixel
_CONSISTENT = 0.92  # least ratio of the mean gradient to the root mean square one: 1 where it never changes
_MIN_SAMPLES = 4  # of fewer, chance edges look fixed
_MIN_PIXELS = 0.0012  # of fixed edges in one mark, as a share of the picture
_DENSE = 0.5  # share of a mark's box that its edges fill, gaps within letters closed
_LARGEST = 0.1  # share of the picture; what is larger is scenery
_SCENERY_MOVES = 0.35  # share of fixed edges above which a mark cannot be told from the scenery
_ELSEWHERE = 0.7  # the same, of where the fixed edges are: one who walks through a still view hides what stands
_REACH = 0.06  # of the short side: how far between two samples scenery is looked for
_SCHARR = 32.0  # response of the kernel to a slope of one level per pixel


class FixedMarks(NamedTuple):
    """`area` is the share of the picture inside the `boxes` of fixed marks; `scenery_fixed` the share of the other
    edges that stand still, `elsewhere` the share of the edges that stand still which are in no mark: both near 1
    under a static camera, where nothing can be said about marks."""

    area: float
    scenery_fixed: float
    elsewhere: float
    boxes: list[Box]

    @property
    def sure(self) -> bool:
        """Whether a mark can be told from the scenery."""
        return self.scenery_fixed <= _SCENERY_MOVES and not (self.boxes and self.elsewhere > _ELSEWHERE)


def fixed_marks(lumas: Sequence[NDArray[np.uint8]], moving: NDArray[np.bool_] | None = None) -> FixedMarks | None:
    """From (H, W) samples of equal size, at different times, without black bars. None for fewer than four.

    `moving` (H, W) is where the scenery is known to move: elsewhere, as in the middle of a zoom, it stands still too.
    """
    if len(lumas) < _MIN_SAMPLES:
        return None
    mean_x, mean_y, power = (np.zeros(lumas[0].shape, np.float32) for _ in range(3))
    kept = np.linspace(0, len(lumas) - 1, _MIN_SAMPLES).round().astype(int).tolist()
    edges = []
    for at, luma in enumerate(lumas):
        smooth = cv2.GaussianBlur(luma, (3, 3), 0)
        dx, dy = cv2.Scharr(smooth, cv2.CV_32F, 1, 0), cv2.Scharr(smooth, cv2.CV_32F, 0, 1)
        mean_x += dx
        mean_y += dy
        power += dx * dx + dy * dy
        if at in kept:
            edges.append(cv2.magnitude(dx, dy))
    steady = cv2.magnitude(mean_x, mean_y) / (_SCHARR * len(lumas))
    strength = np.sqrt(power / len(lumas)) / _SCHARR
    fixed = (steady >= _EDGE) & (steady >= _CONSISTENT * strength)
    boxes = _marks(fixed if moving is None else fixed & moving, edges)
    marks = np.zeros_like(fixed)
    for x, y, w, h in boxes:
        marks[y : y + h, x : x + w] = True
    scenery, outside = (strength >= _EDGE) & ~marks, fixed & ~marks
    return FixedMarks(
        float(marks.mean()),
        float((fixed & scenery).sum() / max(1, scenery.sum())),
        float(outside.sum() / max(1, fixed.sum())),
        boxes,
    )


def _marks(fixed: NDArray[np.bool_], edges: Sequence[NDArray[np.float32]]) -> list[Box]:
    """The boxes of dense clusters of fixed edges."""
    joined = cv2.morphologyEx(fixed.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 9), np.uint8))
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    pixels = np.bincount(labels[fixed], minlength=count)
    marks = []
    for (x, y, w, h, filled), n in zip(boxes[1:].tolist(), pixels[1:], strict=True):
        is_mark = n >= _MIN_PIXELS * fixed.size and filled >= _DENSE * w * h and w * h <= _LARGEST * fixed.size
        if is_mark and not _moves(edges, (x, y, w, h)):
            marks.append((x, y, w, h))
    return marks


def _moves(edges: Sequence[NDArray[np.float32]], box: Box) -> bool:
    """Whether what is in the box goes along after all: level edges stay level edges while the camera pans."""
    reach = round(_REACH * min(edges[0].shape))
    seen = [displacement(before, after, box, (reach, reach)) for before, after in pairwise(edges)]
    return sum(one.moved for one in seen) > sum(one.stays for one in seen)
