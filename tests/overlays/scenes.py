"""Walls that a camera pans over, with text and an emblem that are laid over what it sees."""

import cv2
import numpy as np

from pipelines.synthesis.textures import fractal_noise

WIDTH, HEIGHT = 456, 256


def views(seed, count=16, step=7.0, size=(WIDTH, HEIGHT)):
    """(H, W) samples of a textured wall that the camera pans over, with a hand's tremor."""
    wall = fractal_noise(460, 1100, np.random.default_rng(seed), coarsest=120, decay=0.75)
    wall = cv2.GaussianBlur(np.clip(110 + 30 * wall, 0, 255).astype(np.uint8), (0, 0), 0.8)
    seen = []
    for n in range(count):
        x, y = 300 + step * n + 3 * np.sin(1.7 * n), 200 + 4 * np.sin(2.3 * n)
        seen.append(cv2.getRectSubPix(wall, size, (float(x), float(y))))
    return seen


def lettered(view, text, at, scale=0.7, ink=240):
    """The view with the text, a dark rim around its letters; and where ink is, (H, W) bool."""
    layer = np.zeros_like(view)
    cv2.putText(layer, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, 4, cv2.LINE_AA)
    shown = view.copy()
    cv2.putText(shown, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, 10, 4, cv2.LINE_AA)
    cv2.putText(shown, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, 2, cv2.LINE_AA)
    return shown, layer > 0


def written(view, text, at, size=28):
    """The same in the font that knows every script."""
    layer = np.zeros((*view.shape, 3), np.uint8)
    cv2.putText(layer, text, at, (255, 255, 255), cv2.FontFace("sans"), size, 600)
    ink = layer[..., 0]
    rim = cv2.dilate(ink, np.ones((5, 5), np.uint8))
    shown = np.where(rim > 127, 10, view)
    return np.where(ink > 127, 240, shown).astype(np.uint8), rim > 127


def badge(view, x, y, opacity=1.0):
    """The view with an emblem of rings and a bar, and where it is."""
    layer = view.copy()
    for radius, ink in ((20, 235), (14, 30), (8, 235)):
        cv2.circle(layer, (x, y), radius, ink, -1, cv2.LINE_AA)
    cv2.rectangle(layer, (x - 24, y + 12), (x + 24, y + 20), 235, -1)
    shown = (opacity * layer.astype(float) + (1 - opacity) * view).round().astype(np.uint8)
    return shown, layer != view
