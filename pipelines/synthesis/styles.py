"""Looks applied to the whole picture, pixel by pixel (pixelated: block by block)."""

import functools

import cv2
import numpy as np

from pipelines.synthesis.film import StyleName

BLOCKS_PER_HEIGHT = 48
POSTER = """
    1b1c24 3b2f42 70394b a8484a d9714f eba766 f4d89b faf3dc
    2c4a4f 3f7a70 78ab83 b8cf9b 27345e 3f6199 6fa3c9 b9d9e0
"""


def apply_style(style: StyleName, frame: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB in the given style."""
    if style == "noir":
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        return cv2.cvtColor(_darken(cv2.LUT(grey, _noir_curve())), cv2.COLOR_GRAY2RGB)
    if style == "palette":
        coarse = (frame >> 4).astype(np.uint16)
        return _palette_table()[(coarse[..., 0] << 8) | (coarse[..., 1] << 4) | coarse[..., 2]]
    if style == "outline":
        return cv2.LUT(frame, _poster_curve())
    if style == "pixelated":
        return _blocks(frame)
    return frame


def style_mask(style: StyleName, mask: np.ndarray) -> np.ndarray:
    """Where a style lets the pixels of `mask` (H, W) bool show: the same ones, or the blocks they fall into."""
    return _blocks(mask.astype(np.float32)) > 0 if style == "pixelated" else mask


def _blocks(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    rows = min(height, BLOCKS_PER_HEIGHT)
    small = cv2.resize(image, (max(1, round(width * rows / height)), rows), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)


def _darken(grey: np.ndarray) -> np.ndarray:
    return cv2.multiply(grey, _vignette(*grey.shape), dtype=cv2.CV_8U)


@functools.cache
def _noir_curve() -> np.ndarray:
    level = np.arange(256) / 255.0
    return np.rint(255 / (1 + np.exp(-9 * (level - 0.45)))).astype(np.uint8)


@functools.cache
def _poster_curve() -> np.ndarray:
    return np.rint(np.rint(np.arange(256) / 51.0) * 51.0).astype(np.uint8)


@functools.cache
def _vignette(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return np.clip(1.1 - 0.35 * (x * x + y * y), 0.0, 1.0).astype(np.float32)


@functools.cache
def _palette_table() -> np.ndarray:
    """(4096, 3): nearest of sixteen warm poster colours for every 12-bit colour."""
    colours = np.array([[int(code[k : k + 2], 16) for k in (0, 2, 4)] for code in POSTER.split()])
    grid = np.stack(np.meshgrid(*[np.arange(16) * 17] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    return colours[((grid - colours) ** 2).sum(axis=-1).argmin(axis=1)].astype(np.uint8)
