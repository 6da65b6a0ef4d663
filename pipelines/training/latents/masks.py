"""Regions to inpaint, drawn at random: boxes that stand or move, and free shapes."""

from typing import Literal, get_args

import cv2
import numpy as np
import torch
from torch import Tensor

RegionKind = Literal["box", "moving box", "shape", "moving shape"]
_SHARE = (0.25, 0.65)  # of each side that a region spans
_CORNERS = 10


def draw_keep_mask(generator: np.random.Generator, frames: int, height: int, width: int) -> Tensor:
    """(1, F, H, W) bool, True = keep: one region of a kind, size and path that the generator draws."""
    kind: RegionKind = get_args(RegionKind)[int(generator.integers(len(get_args(RegionKind))))]
    size = generator.uniform(*_SHARE, 2) * (width, height)
    start, end = generator.uniform(size / 2, (width, height) - size / 2, (2, 2))
    corners = _box() if kind.endswith("box") else _blob(generator)
    masks = np.ones((frames, height, width), np.uint8)
    for frame in range(frames):
        share = frame / max(frames - 1, 1) if kind.startswith("moving") else 0.0
        outline = (start + share * (end - start) + corners * size / 2).round().astype(np.int32)
        cv2.fillPoly(masks[frame], [outline], 0)
    return torch.from_numpy(masks.astype(bool))[None]


def _box() -> np.ndarray:
    """(4, 2) corners in [-1, 1]."""
    return np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float)


def _blob(generator: np.random.Generator) -> np.ndarray:
    """(n, 2) corners of a star-shaped outline in [-1, 1]."""
    angles = np.sort(generator.uniform(0, 2 * np.pi, _CORNERS))
    return np.stack([np.cos(angles), np.sin(angles)], 1) * generator.uniform(0.4, 1, (_CORNERS, 1))
