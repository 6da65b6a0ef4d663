"""A hand-made descriptor for machines without weights: layout of colour, edges and light.

It knows how a picture looks, not what it shows: good for duplicates and rough groups, blind to meaning. Its identity
says so wherever its vectors are used.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
_SIDE = 64
_GRID = 4
_ORIENTATIONS = 8
_COSINES = 8


class Descriptor:
    """`identity` carries the label "descriptor"."""

    identity = "descriptor-1"
    draft_side = 3 * _SIDE
    dimension = 3 * _GRID**2 + _ORIENTATIONS * _GRID**2 + _COSINES**2 - 1

    def __call__(self, frames: Sequence[Frame]) -> NDArray[np.float32]:
        """(D,) unit vector of a clip's (H, W, 3) RGB frames; zeros for frames of one even colour, or none."""
        return self.many([frames])[0]

    def many(self, clips: Sequence[Sequence[Frame]]) -> NDArray[np.float32]:
        """(N, D), one row per clip: the mean over its frames, at length 1."""
        pooled = [
            np.mean([_describe(frame) for frame in frames] or [np.zeros(self.dimension)], axis=0) for frames in clips
        ]
        vectors = np.array(pooled, np.float32).reshape(len(clips), self.dimension)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _describe(frame: Frame) -> NDArray[np.float64]:
    """Each of the three parts has zero mean and length 1 (0 where there is nothing of it), so none rules the cosine."""
    small = cv2.resize(frame, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).astype(np.float32) / 255.0
    luma = lab[..., 0]
    return np.concatenate([_part(_colours(lab)), _part(_orientations(luma)), _part(_cosines(luma))])


def _part(values: NDArray[np.float32]) -> NDArray[np.float64]:
    flat = values.ravel().astype(np.float64)
    length = float(np.linalg.norm(flat))
    return np.zeros(len(flat)) if length < 1e-6 else flat / np.float64(length)


def _colours(lab: NDArray[np.float32]) -> NDArray[np.float32]:
    """(4, 4, 3): mean L, a, b of each cell, from mid grey."""
    return cv2.resize(lab, (_GRID, _GRID), interpolation=cv2.INTER_AREA) - np.float32(0.5)


def _orientations(luma: NDArray[np.float32]) -> NDArray[np.float32]:
    """(4, 4, 8): gradient energy by direction in each cell, against the mean over the frame (Dalal & Triggs 2005)."""
    dx, dy = cv2.Sobel(luma, cv2.CV_32F, 1, 0), cv2.Sobel(luma, cv2.CV_32F, 0, 1)
    strength = np.hypot(dx, dy)
    direction = np.floor((np.arctan2(dy, dx) % np.pi) / np.pi * _ORIENTATIONS).astype(int) % _ORIENTATIONS
    cell = np.arange(_SIDE) * _GRID // _SIDE
    places = (cell[:, None] * _GRID + cell[None, :]) * _ORIENTATIONS + direction
    energy = np.bincount(places.ravel(), strength.ravel(), minlength=_GRID**2 * _ORIENTATIONS)
    rooted = np.sqrt(energy).astype(np.float32)
    return rooted - rooted.mean()


def _cosines(luma: NDArray[np.float32]) -> NDArray[np.float32]:
    """(63,): the lowest cosine terms but the mean."""
    return cv2.dct(luma)[:_COSINES, :_COSINES].ravel()[1:].astype(np.float32)
