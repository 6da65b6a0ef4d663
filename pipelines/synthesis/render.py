"""Frames of a film: background canvas through the camera, sprites over it, style, transitions, overlays."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from pipelines.synthesis.camera import View, reach, view_at
from pipelines.synthesis.faces import draw_face, mouth_openings
from pipelines.synthesis.film import Film, Shot
from pipelines.synthesis.overlays import Stamp, lay_over, make_stamps
from pipelines.synthesis.physics import SQUASH_SECONDS, World, solve
from pipelines.synthesis.shapes import Box, Sprite, make_sprite, warp_alpha, warp_colour
from pipelines.synthesis.styles import apply_style, style_mask
from pipelines.synthesis.textures import background_canvas

GRAIN_SLACK = 61  # how far the noise tile moves between frames, in pixels


@dataclass(frozen=True)
class Stage:
    """A shot made ready: its solved motion and everything that is drawn only once."""

    shot: Shot
    seconds: float  # of the camera move
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


def frames(ready: Set) -> Iterator[np.ndarray]:
    """All frames, (H, W, 3) uint8 RGB."""
    return (frame_at(ready, index) for index in range(ready.film.frames))


def frame_at(ready: Set, index: int) -> np.ndarray:
    film = ready.film
    number, elapsed = locate(film, index)
    frame = _draw(ready.stages[number], elapsed, index)
    outgoing, share = _transition(film, number, elapsed)
    if outgoing == "dissolve":
        previous = ready.stages[number - 1]
        frame = cv2.addWeighted(_draw(previous, previous.shot.seconds + elapsed, index), 1 - share, frame, share, 0)
    elif outgoing == "fade":
        frame = cv2.convertScaleAbs(frame, alpha=share)
    return lay_over(ready.stamps, frame, index / film.fps, film.letterbox)


def masks_at(ready: Set, index: int) -> dict[str, np.ndarray]:
    """(H, W) bool per visible subject: every pixel it has a part in. During a dissolve both shots' subjects count."""
    film = ready.film
    number, elapsed = locate(film, index)
    found = _visible(ready.stages[number], elapsed)
    if _transition(film, number, elapsed)[0] == "dissolve":
        previous = ready.stages[number - 1]
        found |= _visible(previous, previous.shot.seconds + elapsed)
    bar = round(film.letterbox * film.size[1])
    for mask in found.values():
        if bar:
            mask[:bar] = mask[-bar:] = False
    return found


def covered_at(ready: Set, index: int) -> np.ndarray:
    """(H, W) bool: pixels that subjects hide the background from altogether. Not defined during a dissolve."""
    film = ready.film
    number, elapsed = locate(film, index)
    if _transition(film, number, elapsed)[0] == "dissolve":
        raise ValueError(f"frame {index} lies in a dissolve, where every pixel shows some background")
    stage = ready.stages[number]
    view = view_at(stage.shot.camera, stage.world.aspect, elapsed, stage.seconds)
    open_ground = np.ones((film.size[1], film.size[0]), bool)
    for subject in range(len(stage.sprites)):
        placed = _place(stage, subject, view, elapsed)
        if placed is not None:
            matrix, (x0, y0, x1, y1) = placed
            alpha = warp_alpha(stage.sprites[subject], matrix, (x0, y0, x1, y1))
            open_ground[y0:y1, x0:x1] &= alpha < 255
    return ~style_mask(stage.shot.scene.style, open_ground)


def locate(film: Film, index: int) -> tuple[int, float]:
    """(number of the shot that frame `index` belongs to, seconds since that shot's first frame)."""
    edges = film.shot_frames
    number = max(k for k in range(len(film.shots)) if edges[k] <= index)
    return number, float((index - edges[number]) / film.fps)


def _transition(film: Film, number: int, elapsed: float) -> tuple[str, float]:
    """What a frame is mixed with, and the share of its own shot in it."""
    shot = film.shots[number]
    if number and shot.transition != "cut" and elapsed < shot.transition_seconds:
        if shot.transition == "dissolve":
            return "dissolve", (elapsed + 0.5 / float(film.fps)) / shot.transition_seconds
        if elapsed < shot.transition_seconds / 2:
            return "fade", 2 * elapsed / shot.transition_seconds
    following = film.shots[number + 1] if number + 1 < len(film.shots) else None
    if following is not None and following.transition == "fade":
        left = shot.seconds - elapsed
        if left < following.transition_seconds / 2:
            return "fade", max(0.0, 2 * left / following.transition_seconds)
    return "none", 1.0


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
    return Stage(shot, shot.seconds, world, names, canvas, scale, origin, sprites, openings, grain, film.size)


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


def _draw(stage: Stage, time: float, index: int) -> np.ndarray:
    view = view_at(stage.shot.camera, stage.world.aspect, time, stage.seconds)
    width, height = stage.size
    ratio = height * view.zoom / stage.canvas_scale
    to_frame = np.array(
        [
            [ratio, 0.0, width / 2 - (view.x - stage.canvas_origin[0]) * height * view.zoom],
            [0.0, ratio, height / 2 - (view.y - stage.canvas_origin[1]) * height * view.zoom],
        ]
    )
    frame = cv2.warpAffine(
        stage.canvas, to_frame, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    for number in range(len(stage.sprites)):
        _paste(stage, number, view, time, index, frame)
    if stage.shot.scene.grain > 0:
        dx, dy = (index * 37) % GRAIN_SLACK, (index * 23) % GRAIN_SLACK
        lighter, darker = (tile[dy : dy + height, dx : dx + width] for tile in stage.grain[index % 4])
        frame = cv2.subtract(cv2.add(frame, lighter), darker)
    return apply_style(stage.shot.scene.style, frame)


def _paste(stage: Stage, number: int, view: View, time: float, index: int, frame: np.ndarray) -> None:
    placed = _place(stage, number, view, time)
    if placed is None:
        return
    matrix, box = placed
    sprite = stage.sprites[number]
    colour = warp_colour(sprite, matrix, box)
    if stage.shot.scene.subjects[number].speaks:
        middle = (sprite.alpha.shape[0] - 1) / 2
        centre = matrix @ (middle, middle, 1.0) - box[:2]
        draw_face(colour, centre, matrix[:, :2], sprite.radius, float(stage.openings[index]))
    alpha = warp_alpha(sprite, matrix, box)
    flash = 1 + 0.3 * _dent(stage, number, time)
    share = alpha.astype(np.float32)[..., None] * (1 / 255)
    region = frame[box[1] : box[3], box[0] : box[2]]
    region += np.rint((np.minimum(colour * flash, 255.0) - region) * share).astype(np.int16).astype(np.uint8)


def _visible(stage: Stage, time: float) -> dict[str, np.ndarray]:
    view = view_at(stage.shot.camera, stage.world.aspect, time, stage.seconds)
    width, height = stage.size
    found: dict[str, np.ndarray] = {}
    for number, name in enumerate(stage.names):
        placed = _place(stage, number, view, time)
        if placed is None:
            continue
        matrix, (x0, y0, x1, y1) = placed
        alpha = warp_alpha(stage.sprites[number], matrix, (x0, y0, x1, y1))
        for mask in found.values():
            mask[y0:y1, x0:x1] &= alpha < 255
        mask = np.zeros((height, width), bool)
        mask[y0:y1, x0:x1] = alpha > 0
        found[name] = mask
    style = stage.shot.scene.style
    return {name: style_mask(style, mask) for name, mask in found.items() if mask.any()}


def _place(stage: Stage, number: int, view: View, time: float) -> tuple[np.ndarray, Box] | None:
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
    if dent := _dent(stage, number, time):
        hit = stage.world.last_impact(number, time)
        nx, ny = hit.normal if hit is not None else (0.0, 1.0)
        squash = 1 - 0.22 * dent
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


def _dent(stage: Stage, number: int, time: float) -> float:
    """How deep the subject's last impact still shows, from 1 to 0."""
    hit = stage.world.last_impact(number, time)
    if hit is None:
        return 0.0
    depth = min(1.0, 0.5 + hit.strength) * math.exp(-(time - hit.time) / SQUASH_SECONDS)
    return depth if depth > 0.02 else 0.0
