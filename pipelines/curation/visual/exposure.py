"""Brightness and contrast of one frame, from one histogram."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

DARK = 32  # luma below this is near black (16 is black in video range)
CEILING = 250  # of 255: a colour channel above this has lost its detail
BRIGHT = 229  # luma above this is near white (235 is white in video range)
_LEVELS = np.arange(256, dtype=np.float64)


class Exposure(NamedTuple):
    """Luma 0-255 as stored; `dark` and `bright` are shares of the pixels."""

    mean: float
    std: float
    low: float  # 3rd percentile
    high: float  # 97th percentile
    dark: float
    bright: float


def exposure(luma: NDArray[np.uint8]) -> Exposure:
    """Of a (H, W) luma plane."""
    share = cv2.calcHist([luma], [0], None, [256], [0, 256]).ravel().astype(np.float64) / luma.size
    below = share.cumsum()
    mean = float(share @ _LEVELS)
    variance = float(share @ (_LEVELS - mean) ** 2)
    low, high = np.searchsorted(below, (0.03, 0.97))
    return Exposure(mean, variance**0.5, float(low), float(high), float(below[DARK - 1]), float(1 - below[BRIGHT]))


def blown_fraction(hsv: NDArray[np.uint8]) -> float:
    """Share of an (H, W, 3) picture where the largest of red, green and blue is at its ceiling."""
    value = cv2.extractChannel(hsv, 2)
    return cv2.countNonZero(cv2.threshold(value, CEILING - 1, 1, cv2.THRESH_BINARY)[1]) / value.size


def blown_fraction_rgb(rgb: NDArray[np.uint8]) -> float:
    """The same of an (H, W, 3) picture in RGB or BGR: no conversion, as the largest channel is all that counts."""
    below = cv2.countNonZero(cv2.inRange(rgb, (0, 0, 0), (CEILING - 1,) * 3))
    pixels = rgb.shape[0] * rgb.shape[1]
    return (pixels - below) / pixels
