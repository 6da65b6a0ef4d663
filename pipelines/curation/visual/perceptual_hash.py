"""A 64-bit hash of a picture that survives re-encoding, scaling, small crops and changes of brightness."""

import cv2
import numpy as np
from numpy.typing import NDArray

_WEIGHTS = 1 << np.arange(64, dtype=np.uint64)


def perceptual_hash(luma: NDArray[np.uint8]) -> int:
    """Signs of the 8 x 8 lowest cosine terms (without the mean) of the (H, W) picture at 32 x 32, blurred.

    The DCT hash known as pHash; a plain picture hashes to 0.
    """
    square = cv2.resize(luma, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    terms = cv2.dct(cv2.GaussianBlur(square, (5, 5), 0))[:8, :8].ravel()
    terms[0] = 0.0
    bits = (terms > np.median(terms)) & (np.abs(terms) > 1e-3)
    return int(_WEIGHTS[bits].sum())


def hamming(a: int, b: int) -> int:
    """Bits in which two hashes differ, 0 to 64."""
    return (a ^ b).bit_count()
