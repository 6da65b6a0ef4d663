"""Repeated frames (dropped ones, filled by the frame before) and frozen stretches, from the change of blocks."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_SAME = 0.35  # mean luma levels by which the most changed block of an encoded repeat may differ
_SAME_SHARE = 0.06  # of the motion around it that a repeat may change by
_MOVES = 3.0  # levels above which frames are not still
_AROUND = 9  # frames


class Repeats(NamedTuple):
    """`repeated_fraction` of frames repeat the one before while the picture moves; `frozen_s` is the longest stretch
    without any change, in seconds, and `frozen_fraction` the share of frames without any change."""

    repeated_fraction: float
    frozen_fraction: float
    frozen_s: float


def repeated(block_change: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which frames repeat their predecessor although the frames around them move.

    `block_change` is `FrameCurves.block_change`; a frame in a still scene, where nothing around moves, is none.
    """
    padded = np.pad(block_change, _AROUND // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, _AROUND)
    # The second largest: one jump alone is a cut or a flash.
    motion = np.partition(windows, -2, axis=1)[:, -2]
    return (block_change <= np.maximum(_SAME, _SAME_SHARE * motion)) & (motion > _MOVES)


def repeats(time_s: NDArray[np.float64], block_change: NDArray[np.float32]) -> Repeats:
    """Over the frames of one clip; the first frame's change (against another clip) is left out."""
    if len(time_s) < 3:
        return Repeats(0.0, 0.0, 0.0)
    change = block_change[1:]
    still = change <= _SAME
    edges = np.flatnonzero(np.diff(np.concatenate(([False], still, [False])).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    longest = max((float(time_s[end] - time_s[start]) for start, end in zip(starts, ends, strict=True)), default=0.0)
    return Repeats(float(repeated(change).mean()), float(still.mean()), longest)
