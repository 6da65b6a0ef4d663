"""Subjects and background of a clip: colours, shapes, places, cuts.

The background is what the rim of the picture shows, and subjects are what differs from it.
"""

import functools
from dataclasses import dataclass

import cv2
import numpy as np

from pipelines.synthesis.film import COLOURS
from pipelines.synthesis.plain import BACKGROUNDS, SHAPES
from pipelines.synthesis.plain import COLOURS as SUBJECT_COLOURS
from pipelines.synthesis.shapes import signed_distance

LEAST_CONTRAST = 20.0  # grey levels between a subject and what is behind it
LEAST_AREA, MOST_AREA = 0.01, 0.5  # of the frame: what is larger is no subject
LIGHT = np.linspace(0.7, 1.3, 13)  # how much brighter or darker than its colour a lit subject may be
CUT_LEVELS = 18.0  # mean grey levels by which frames on both sides of a cut differ
GRID, RADIUS = 32, 10.0  # of the normalised outline: pixels, and the radius of a disc of its area
LEAST_LIKENESS = 0.8  # correlation with the best outline
UNEVEN = 12.0  # grey levels of the standard deviation from which a rim is no flat colour


@dataclass(frozen=True)
class Picture:
    """`centres` (F, 2) of the largest subject in fractions of width and height, NaN where there is none.

    `colour` and `shape` are its own over the whole clip; None: nothing there, or unlike all of the world. `counts` are
    subjects per frame, `cuts` the first frames of new shots, `backgrounds` the colour behind, per frame.
    """

    backgrounds: tuple[str | None, ...]
    centres: np.ndarray
    colour: str | None
    shape: str | None
    counts: np.ndarray
    cuts: tuple[int, ...]

    @property
    def background(self) -> str | None:
        """The commonest over the clip."""
        return max(set(self.backgrounds), key=self.backgrounds.count)

    @property
    def count(self) -> int:
        return int(np.median(self.counts))


def look(frames: np.ndarray) -> Picture:
    """What (F, H, W, 3) uint8 show."""
    small = frames.astype(np.float32)
    behind, uneven = _rim(small)
    distance = np.sqrt(_summed((small - behind[:, None, None]) ** 2))
    contrast = float(np.percentile(distance, 97))
    mask = distance > max(LEAST_CONTRAST, 0.4 * contrast)
    labels, counts, centres, inside = [], [], [], []
    for frame in mask:
        count, label, centre = _subjects(frame)
        labels.append(label)
        counts.append(count)
        centres.append(centre)
    largest = np.stack(labels)
    for frame, region in zip(small, largest, strict=True):
        core = cv2.erode(region.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        inside.append(frame[core] if core.any() else frame[region])
    pixels = np.concatenate(inside)
    return Picture(
        tuple(None if rough else _nearest(colour) for colour, rough in zip(behind, uneven, strict=True)),
        np.array(centres, np.float64).reshape(-1, 2),
        _subject_colour(pixels) if len(pixels) else None,
        _shape(_opacity(small, behind, np.median(pixels, axis=0)), largest) if len(pixels) else None,
        np.array(counts),
        _cuts(small),
    )


def _summed(colours: np.ndarray) -> np.ndarray:
    """Over the last axis of (..., 3): NumPy's own sum of so few is many times slower."""
    return colours[..., 0] + colours[..., 1] + colours[..., 2]


def _rim(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(F, 3) the median colour along the edges, and (F,) whether they have no one colour."""
    width = max(2, frames.shape[2] // 24)
    inner = np.ones(frames.shape[1:3], bool)
    inner[width:-width, width:-width] = False
    rim = frames[:, inner]
    middle = np.median(rim, axis=1)
    spread = np.median(_summed(np.abs(rim - middle[:, None])) / 3, axis=1)
    return middle, spread > UNEVEN


def _subjects(mask: np.ndarray) -> tuple[int, np.ndarray, tuple[float, float]]:
    """(how many, (H, W) bool of the largest, its centre in fractions of width and height)."""
    _, labels, stats, centres = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    found = (areas >= LEAST_AREA * mask.size) & (areas <= MOST_AREA * mask.size)
    if not found.any():
        return 0, np.zeros_like(mask), (np.nan, np.nan)
    largest = 1 + int(np.argmax(np.where(found, areas, 0)))
    x, y = centres[largest]
    return int(found.sum()), labels == largest, ((x + 0.5) / mask.shape[1], (y + 0.5) / mask.shape[0])


def _nearest(colour: np.ndarray) -> str:
    return min(BACKGROUNDS, key=lambda name: float(np.linalg.norm(colour - np.array(COLOURS[name]))))


def _subject_colour(pixels: np.ndarray) -> str:
    """The colour whose lit shades are the nearest to most pixels (N, 3)."""
    some = pixels[:: max(1, len(pixels) // 400)]
    shades = np.stack([np.outer(LIGHT, COLOURS[name]) for name in SUBJECT_COLOURS])
    distances = np.linalg.norm(some[:, None, None] - np.minimum(shades, 255.0), axis=-1).min(-1)
    return SUBJECT_COLOURS[int(np.argmin(np.median(distances, axis=0)))]


def _opacity(frames: np.ndarray, behind: np.ndarray, subject: np.ndarray) -> np.ndarray:
    """(F, H, W) from 0 to 1: how far each pixel is on the line from the colour behind, (F, 3), to the subject's, (3,).

    What differs from both, such as the hole of a ring that a codec left too bright, is no part of the subject.
    """
    line = subject - behind
    along = np.einsum("fhwc,fc->fhw", frames - behind[:, None, None], line)
    return np.clip(along / np.maximum((line**2).sum(-1), 1.0)[:, None, None], 0.0, 1.0)


def _shape(opacity: np.ndarray, largest: np.ndarray) -> str | None:
    """The outline that the subject, brought to one place and size and averaged over the frames, is most like."""
    near = [cv2.dilate(region.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0 for region in largest]
    seen = [
        _normalised(np.where(around, alpha, 0.0))
        for alpha, around, region in zip(opacity, near, largest, strict=True)
        if (alpha[around] > 0).any() and not _touches_rim(region)
    ]
    if not seen:
        return None
    average = _standardised(np.median(seen, axis=0))
    likeness = {shape: float((average * outline).mean()) for shape, outline in _outlines().items()}
    best = max(likeness, key=lambda shape: likeness[shape])
    return best if likeness[best] >= LEAST_LIKENESS else None


def _touches_rim(region: np.ndarray) -> bool:
    return bool(region[0].any() or region[-1].any() or region[:, 0].any() or region[:, -1].any())


def _normalised(alpha: np.ndarray) -> np.ndarray:
    """Opacities (H, W) as (GRID, GRID), with their centre in the middle and the area of a disc of RADIUS."""
    alpha = alpha.astype(np.float32)
    moments = cv2.moments(alpha)
    scale = RADIUS / np.sqrt(moments["m00"] / np.pi)
    x, y = moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]
    middle = (GRID - 1) / 2
    matrix = np.array([[scale, 0, middle - scale * x], [0, scale, middle - scale * y]])
    return cv2.warpAffine(alpha, matrix, (GRID, GRID), flags=cv2.INTER_LINEAR)


@functools.cache
def _outlines() -> dict[str, np.ndarray]:
    """Every shape of the world, normalised and standardised."""
    y, x = np.mgrid[-1.2:1.2:48j, -1.2:1.2:48j].astype(np.float32)
    alphas = {shape: np.clip(0.5 - 20 * signed_distance(shape, x, y), 0.0, 1.0) for shape in SHAPES}
    return {shape: _standardised(_normalised(alpha)) for shape, alpha in alphas.items()}


def _standardised(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / (values.std() + 1e-6)


def _cuts(frames: np.ndarray) -> tuple[int, ...]:
    """Frames that differ from the one before far more than neighbours do."""
    if len(frames) < 2:
        return ()
    steps = np.abs(np.diff(_summed(frames) / 3, axis=0)).mean((1, 2))
    averages = np.array([cv2.mean(frame)[:3] for frame in frames])
    steps = np.maximum(steps, np.abs(np.diff(averages, axis=0)).mean(-1))
    usual = float(np.median(steps))
    return tuple(int(place) + 1 for place in np.flatnonzero(steps > CUT_LEVELS + 3 * usual))
