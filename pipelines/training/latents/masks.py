"""What is kept of a clip, drawn at random: all but a box that stands or moves, or a free shape; or whole frames."""

from typing import Literal, get_args

import cv2
import numpy as np
import torch
from torch import Tensor

from model.shapes import ClipShape

RegionKind = Literal["box", "moving box", "shape", "moving shape"]
_SHARE = (0.25, 0.65)  # of each side that a region spans
_CORNERS = 10
_WHOLE_FRAMES = 0.25  # of clips to refine: one in four of the base's tasks that keep something extends a clip


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


def draw_refined_mask(generator: np.random.Generator, clip: ClipShape) -> Tensor:
    """(1, F, H, W) bool, True = keep: what a source may keep of a clip to refine, at the size and rate of `clip`.

    All but a region, as inpainting leaves it; or the latents at the beginning or the end, as extending does.
    """
    if clip.latent_frames < 2 or generator.random() >= _WHOLE_FRAMES:
        return draw_keep_mask(generator, clip.frames, clip.height, clip.width)
    kept = clip.video.frames_of(int(generator.integers(1, clip.latent_frames)))
    mask = torch.zeros(1, clip.frames, clip.height, clip.width, dtype=torch.bool)
    mask[:, slice(-kept, None) if generator.random() < 0.5 else slice(kept)] = True
    return mask


def _box() -> np.ndarray:
    """(4, 2) corners in [-1, 1]."""
    return np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float)


def _blob(generator: np.random.Generator) -> np.ndarray:
    """(n, 2) corners of a star-shaped outline in [-1, 1]."""
    angles = np.sort(generator.uniform(0, 2 * np.pi, _CORNERS))
    return np.stack([np.cos(angles), np.sin(angles)], 1) * generator.uniform(0.4, 1, (_CORNERS, 1))
