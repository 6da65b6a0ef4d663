"""The mono sound that models listen to."""

from math import gcd

import numpy as np


def mono_at(samples: np.ndarray, sample_rate: int, rate: int) -> np.ndarray:
    """Mean of the channels of (C, N) at another sample rate, float32, band-limited."""
    mono = np.asarray(samples, np.float32).mean(axis=0)
    if sample_rate == rate:
        return mono
    from scipy.signal import resample_poly  # half a second that who only imports this need not spend

    common = gcd(sample_rate, rate)
    return resample_poly(mono, rate // common, sample_rate // common).astype(np.float32)
