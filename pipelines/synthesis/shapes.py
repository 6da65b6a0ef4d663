"""Outlines as signed distances, and the textured sprite of a subject."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from pipelines.synthesis.film import COLOURS, ShapeName, Subject
from pipelines.synthesis.textures import subject_texture

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, ends exclusive
MARGIN = 2  # transparent pixels round a sprite, so that a shifted one never touches its border


@dataclass(frozen=True)
class Sprite:
    """`colour` (S, S, 3) uint8, defined beyond the outline too; `alpha` (S, S) uint8; `radius` in pixels."""

    colour: np.ndarray
    alpha: np.ndarray
    radius: float


def signed_distance(shape: ShapeName, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance to the outline of a shape within the unit circle, negative inside (exact or a close bound).

    x, y: coordinates of one shape, y down.
    """
    r = np.hypot(x, y)
    if shape == "circle":
        return r - 1.0
    if shape == "ring":
        return np.abs(r - 0.72) - 0.28
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.8
    if shape == "diamond":
        return (np.abs(x) / 0.75 + np.abs(y) - 1.0) * 0.6
    if shape == "cross":
        return np.minimum(np.maximum(np.abs(x) - 0.92, np.abs(y) - 0.3), np.maximum(np.abs(y) - 0.92, np.abs(x) - 0.3))
    if shape == "heart":
        u, v = x * 1.3, -y * 1.3 + 0.15
        return (np.sqrt(np.maximum(u**2 + (v - np.sqrt(np.abs(u)) * 0.72) ** 2, 0.0)) - 1.0) * 0.55
    if shape == "star":
        return _polygon(x, y, [(1.0 if k % 2 == 0 else 0.45, math.pi * k / 5) for k in range(10)])
    sides = {"triangle": 3, "hexagon": 6}[shape]
    return _polygon(x, y, [(1.0, 2 * math.pi * k / sides) for k in range(sides)])


def make_sprite(subject: Subject, radius: float, *, outlined: bool) -> Sprite:
    """Draw a subject at `radius` pixels, lit from the upper left; `outlined` adds a dark rim inside the shape."""
    half = math.ceil(radius) + MARGIN
    y, x = (np.mgrid[-half : half + 1, -half : half + 1] / radius).astype(np.float32)
    distance = signed_distance(subject.shape, x, y) * radius
    alpha = np.clip(0.5 - distance, 0.0, 1.0)
    base = np.array(COLOURS[subject.colour], np.float32)
    colour = subject_texture(subject.texture, base, x, y)
    light = 1.08 - 0.3 * np.clip(0.5 + 0.5 * (x + y), 0.0, 1.0)
    gloss = 70.0 * np.exp(-((x + 0.38) ** 2 + (y + 0.42) ** 2) / 0.045)
    if subject.material in ("rubber", "wood", "stone"):
        gloss *= 0.3
    shaded = colour * light[..., None] + gloss[..., None]
    rim = np.clip((distance + max(1.0, 0.1 * radius if outlined else 0.03 * radius)), 0.0, 1.0)
    shaded *= (1.0 - (0.9 if outlined else 0.35) * rim)[..., None]
    return Sprite(np.clip(shaded, 0, 255).astype(np.uint8), np.rint(alpha * 255).astype(np.uint8), radius)


def _polygon(x: np.ndarray, y: np.ndarray, corners: list[tuple[float, float]]) -> np.ndarray:
    """Exact distance to a polygon given as (radius, angle from straight up)."""
    points = np.array([(r * math.sin(a), -r * math.cos(a)) for r, a in corners], np.float32)
    contour = np.rint(points * 4096).astype(np.int32)
    nearest = np.full(x.shape, np.inf, np.float32)
    for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, axis=0), strict=True):
        ex, ey = bx - ax, by - ay
        along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0.0, 1.0)
        nearest = np.minimum(nearest, np.hypot(x - ax - along * ex, y - ay - along * ey))
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(contour / 4096.0, np.roll(contour, -1, axis=0) / 4096.0, strict=True):
        crosses = (ay > y) != (by > y)
        with np.errstate(divide="ignore", invalid="ignore"):
            inside ^= crosses & (x < ax + (y - ay) * (bx - ax) / (by - ay))
    return np.where(inside, -nearest, nearest)


def warp_colour(sprite: Sprite, matrix: np.ndarray, box: Box) -> np.ndarray:
    """Colours of a sprite seen through `matrix` (2, 3: sprite pixel -> frame pixel) in the frame's box."""
    local, size = _into(matrix, box)
    return cv2.warpAffine(sprite.colour, local, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def warp_alpha(sprite: Sprite, matrix: np.ndarray, box: Box) -> np.ndarray:
    """Opacity of a sprite seen likewise."""
    local, size = _into(matrix, box)
    return cv2.warpAffine(sprite.alpha, local, size, flags=cv2.INTER_LINEAR)


def _into(matrix: np.ndarray, box: Box) -> tuple[np.ndarray, tuple[int, int]]:
    local = matrix.copy()
    local[:, 2] -= box[:2]
    return local, (box[2] - box[0], box[3] - box[1])
