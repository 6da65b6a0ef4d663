"""Surfaces: fractal noise, the textures of subjects, and the canvases behind them."""

import cv2
import numpy as np

from pipelines.synthesis.film import COLOURS, Background, TextureName


def fractal_noise(height: int, width: int, rng: np.random.Generator, *, coarsest: float, decay: float) -> np.ndarray:
    """(height, width) float32 noise about 0, standard deviation 1: octaves from `coarsest` pixels down to 2.

    Each octave is `decay` times as strong as the one twice as coarse.
    """
    total = np.zeros((height, width), np.float32)
    cell, strength = float(coarsest), 1.0
    while cell >= 2.0:
        grid = rng.standard_normal((int(height / cell) + 3, int(width / cell) + 3)).astype(np.float32)
        scaled = cv2.resize(grid, None, fx=cell, fy=cell, interpolation=cv2.INTER_CUBIC)
        total += strength * scaled[:height, :width]
        cell, strength = cell / 2, strength * decay
    return (total - total.mean()) / max(float(total.std()), 1e-6)


def subject_texture(texture: TextureName, base: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(H, W, 3) float32 colours over the unit square of a subject; `base` is its colour (3,)."""
    partner = base * 0.45 if base.mean() > 110 else base * 0.4 + 130
    if texture == "stripes":
        share = np.clip(3 * np.sin(7.5 * (x + 0.6 * y)) + 0.5, 0, 1)
    elif texture == "checker":
        share = np.clip(4 * np.sin(6.5 * x) * np.sin(6.5 * y) + 0.5, 0, 1)
    elif texture == "dots":
        share = np.clip(6 * (np.cos(8.5 * x) * np.cos(8.5 * y) - 0.45), 0, 1)
    elif texture == "marble":
        noise = fractal_noise(
            x.shape[0], x.shape[1], np.random.default_rng(7), coarsest=max(4, x.shape[0] / 3), decay=0.6
        )
        share = np.clip(0.5 + 0.5 * np.sin(5 * x + 2 * y + 1.6 * noise), 0, 1) * 0.8
    else:
        share = np.zeros_like(x)
    return base + share[..., None] * (partner - base)


def background_canvas(background: Background, height: int, width: int, scale: float, horizon: float) -> np.ndarray:
    """(height, width, 3) uint8. `scale` is pixels per frame height, `horizon` the row of the floor line."""
    rng = np.random.default_rng((background.seed, 0xCA))
    first, second = (np.array(COLOURS[name], np.float32) for name in background.colours)
    # Towards mid grey: a set behind the subjects, well exposed whatever its colour.
    first, second = (0.7 * colour + 0.3 * 125.0 for colour in (first, second))
    rows = np.arange(height, dtype=np.float32)[:, None]
    if background.kind == "flat":
        return np.broadcast_to(first.astype(np.uint8), (height, width, 3)).copy()
    if background.kind == "gradient":
        share = np.broadcast_to(rows / max(1, height - 1), (height, width))
    elif background.kind == "two-tone":
        share = np.broadcast_to(np.clip(rows - horizon + 0.5, 0.0, 1.0), (height, width))
    else:
        share = np.clip(0.5 + 0.28 * fractal_noise(height, width, rng, coarsest=0.5 * scale, decay=0.55), 0.0, 1.0)
    canvas = first + share[..., None] * (second - first)
    relief = fractal_noise(height, width, rng, coarsest=max(4.0, 0.12 * scale), decay=0.85)
    # A lamp at the upper left, out of the frame.
    columns = np.arange(width, dtype=np.float32)[None]
    light = 1.35 - 0.75 * np.hypot(columns / width - 0.1, rows / height)
    canvas *= (light * (1.0 + (0.22 if background.kind == "textured" else 0.14) * relief))[..., None]
    return np.clip(canvas, 0, 255).astype(np.uint8)
