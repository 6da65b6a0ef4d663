"""Whether moving pixels are torn into the two fields of an interlaced picture, which nobody told the decoder of."""

import cv2
import numpy as np
from numpy.typing import NDArray

_COLUMNS = 320  # about so many are enough
_MOVED = 12  # luma levels between two frames that are more than noise and coding
_MIN_MOVED = 0.002  # share of pixels; below it the picture stands, and its fields are of one moment


def combing(before: NDArray[np.uint8], luma: NDArray[np.uint8]) -> float:
    """How much less alike neighbouring rows are than rows two apart, where `luma` moved since the frame `before` it.

    0.5 to 0.8 in whole pictures, about 1 in pure noise, above it where the fields are of two moments: each field alone
    is smooth, and between them lies a movement. NaN where hardly anything moves. Both are (H, W) planes at their
    native height; rows that were scaled after they were combed do not show it.
    """
    step = max(1, luma.shape[1] // _COLUMNS)
    picture, last = np.ascontiguousarray(luma[:, ::step]), np.ascontiguousarray(before[:, ::step])
    # A row counts where it moved: what is striped and stands still (a shirt, a blind, text) is no comb.
    moved = cv2.threshold(cv2.absdiff(picture, last), _MOVED - 1, 1, cv2.THRESH_BINARY)[1][:-2]
    if moved.mean() < _MIN_MOVED:
        return float("nan")
    next_row = cv2.absdiff(picture[:-2], picture[1:-1])
    row_after = cv2.absdiff(picture[:-2], picture[2:])
    return float(cv2.mean(next_row, mask=moved)[0] / max(cv2.mean(row_after, mask=moved)[0], 1e-3))
