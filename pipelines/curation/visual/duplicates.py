"""Repeated frames (dropped ones, filled by the frame before) and frozen stretches, from the change of blocks."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_SAME = 0.35  # mean luma levels by which the most changed block of an encoded repeat may differ
_SAME_SHARE = 0.12  # of what the frames around it change by
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
    moving = np.ma.masked_less_equal(np.pad(block_change, _AROUND // 2), _SAME)
    windows = np.ma.array(
        np.lib.stride_tricks.sliding_window_view(moving.data, _AROUND),
        mask=np.lib.stride_tricks.sliding_window_view(np.ma.getmaskarray(moving), _AROUND),
    )
    around = np.ma.median(windows, axis=1).filled(0.0)
    return (block_change <= np.maximum(_SAME, _SAME_SHARE * around)) & (around > 4 * _SAME)


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
