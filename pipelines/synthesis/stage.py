"""A film made ready to be drawn: motion solved, canvases and sprites painted, everything that is done only once."""

import math
from dataclasses import dataclass

import numpy as np

from pipelines.synthesis.camera import View, reach
from pipelines.synthesis.faces import mouth_openings
from pipelines.synthesis.film import Film, Shot
from pipelines.synthesis.overlays import Stamp, make_stamps
from pipelines.synthesis.physics import SQUASH_SECONDS, World, solve
from pipelines.synthesis.shapes import Box, Sprite, make_sprite
from pipelines.synthesis.textures import background_canvas

GRAIN_SLACK = 61  # how far the noise tile moves between frames, in pixels


@dataclass(frozen=True)
class Stage:
    """A shot made ready: its solved motion and everything that is drawn only once."""

    shot: Shot
    world: World
    names: tuple[str, ...]
    canvas: np.ndarray
    canvas_scale: float
    canvas_origin: tuple[float, float]  # world point of canvas pixel (0, 0)
    sprites: tuple[Sprite, ...]
    openings: np.ndarray  # (frames of the film,), how far the mouth of a speaker is open
    grain: tuple[tuple[np.ndarray, np.ndarray], ...]  # mirrored tiles: (to add, to subtract)
    size: tuple[int, int]


@dataclass(frozen=True)
class Set:
    """A film made ready to be drawn, frame by frame, in any order."""

    film: Film
    stages: tuple[Stage, ...]
    stamps: tuple[Stamp, ...]


def build(film: Film) -> Set:
    stages = []
    openings = mouth_openings(film)
    for number, shot in enumerate(film.shots):
        following = film.shots[number + 1 : number + 2]
        overlap = following[0].transition_seconds if following and following[0].transition == "dissolve" else 0.0
        stages.append(_build_stage(shot, number, shot.seconds + overlap, film, openings))
    return Set(film, tuple(stages), make_stamps(film))


def place(stage: Stage, number: int, view: View, time: float) -> tuple[np.ndarray, Box] | None:
    """(2, 3) matrix from sprite pixels to frame pixels and the box it touches; None when hidden or out of view."""
    subject, sprite = stage.shot.scene.subjects[number], stage.sprites[number]
    if subject.hidden:
        return None
    width, height = stage.size
    x, y = stage.world.position(number, time)
    scale = height * view.zoom
    centre = np.array([width / 2 + (x - view.x) * scale, height / 2 + (y - view.y) * scale])
    angle = subject.motion.spin * time
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    linear = (subject.size * scale / sprite.radius) * turn
    if depth := dent(stage, number, time):
        hit = stage.world.last_impact(number, time)
        nx, ny = hit.normal if hit is not None else (0.0, 1.0)
        squash = 1 - 0.22 * depth
        along = np.array([[nx * nx, nx * ny], [nx * ny, ny * ny]])
        linear = (squash * along + (np.eye(2) - along) / squash) @ linear
    half = (sprite.alpha.shape[0] - 1) / 2
    # cv2 puts pixel centres on integers; the frame's corner is half a pixel before them.
    offset = centre - 0.5 - linear @ np.array([half, half])
    extent = np.abs(linear) @ np.array([half, half])
    x0, y0 = (max(0, int(v)) for v in np.floor(centre - extent - 1))
    x1, y1 = min(width, int(centre[0] + extent[0]) + 2), min(height, int(centre[1] + extent[1]) + 2)
    if x0 >= x1 or y0 >= y1:
        return None
    return np.column_stack([linear, offset]), (x0, y0, x1, y1)


def dent(stage: Stage, number: int, time: float) -> float:
    """How deep the subject's last impact still shows, from 1 to 0."""
    hit = stage.world.last_impact(number, time)
    if hit is None:
        return 0.0
    depth = min(1.0, 0.5 + hit.strength) * math.exp(-(time - hit.time) / SQUASH_SECONDS)
    return depth if depth > 0.02 else 0.0


def _build_stage(shot: Shot, number: int, seconds: float, film: Film, openings: np.ndarray) -> Stage:
    height = film.size[1]
    zoom, drift = reach(shot.camera)
    margin = drift + 0.02
    scale = height * zoom
    canvas = background_canvas(
        shot.scene.background,
        math.ceil((1 + 2 * margin) * scale) + 2,
        math.ceil((film.aspect + 2 * margin) * scale) + 2,
        scale,
        (shot.scene.floor + margin) * scale,
    )
    outlined = shot.scene.style == "outline"
    sprites = tuple(make_sprite(subject, subject.size * scale, outlined=outlined) for subject in shot.scene.subjects)
    names = tuple(f"shot{number}/{subject.name}" for subject in shot.scene.subjects)
    world = solve(shot.scene, film.aspect, seconds)
    grain = _grain_tiles(shot.scene.grain, film, np.random.default_rng((film.seed, number, 0x6E)))
    origin = (-margin, -margin)
    return Stage(shot, world, names, canvas, scale, origin, sprites, openings, grain, film.size)


def _grain_tiles(strength: float, film: Film, rng: np.random.Generator) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Noise to add and to subtract. Four mirror images: frames in a row must not share one pattern, only moved,
    or motion estimation would follow the noise."""
    width, height = film.size
    noise = rng.normal(0, strength, (height + GRAIN_SLACK, width + GRAIN_SLACK, 1)).round()
    mirrored = (noise, noise[::-1], noise[:, ::-1], noise[::-1, ::-1])
    return tuple(
        tuple(np.repeat(np.clip(part, 0, 255).astype(np.uint8), 3, axis=2) for part in (tile, -tile))  # type: ignore[misc]
        for tile in mirrored
    )
