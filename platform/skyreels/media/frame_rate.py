"""The rates of a video's pictures, from when they are shown."""

from fractions import Fraction
from typing import NamedTuple

import numpy as np

_EVEN = 0.1  # how far gaps between pictures may differ and still be one rate
_MOST = 0.6  # of the gaps that must agree for the others to count as dropped or held pictures
_HELD = 3.0  # gaps above this many usual ones are pictures that are held, whatever the rate


class FrameRate(NamedTuple):
    """`mean` is over everything; `steady` leaves out the longer gaps of dropped and held pictures, if there are any."""

    mean: Fraction
    steady: Fraction
    varies: bool


def frame_rate(pts: np.ndarray, base: Fraction, stated: Fraction | None) -> FrameRate:
    """Rates of sorted presentation times in units of `base`; `stated` counts where it is nearly what is measured."""
    gaps = np.diff(pts)
    if len(gaps) == 0 or pts[-1] == pts[0]:
        return FrameRate(stated or Fraction(1), stated or Fraction(1), False)
    typical = float(np.median(gaps))
    # One tick of rounding is not variation: Matroska keeps whole milliseconds.
    even = np.abs(gaps - typical) <= max(_EVEN * typical, 1.01)
    usual = gaps[even] if even.mean() >= _MOST else gaps[gaps <= _HELD * typical]
    mean = _rate(gaps, base, stated)
    return FrameRate(mean, _rate(usual, base, stated) if usual.any() else mean, not bool(even.all()))


def _rate(gaps: np.ndarray, base: Fraction, stated: Fraction | None) -> Fraction:
    measured = Fraction(len(gaps)) / (int(gaps.sum()) * base)
    if stated and abs(stated / measured - 1) < 1e-3:
        return stated
    return measured.limit_denominator(1001) or measured  # less than a picture in half an hour would round to 0
