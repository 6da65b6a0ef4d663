"""Frames of a film: background canvas through the camera, sprites over it, style, transitions, overlays."""

from collections.abc import Iterator

import cv2
import numpy as np

from pipelines.synthesis.camera import View, view_at
from pipelines.synthesis.faces import draw_face
from pipelines.synthesis.overlays import lay_over
from pipelines.synthesis.shapes import warp_alpha, warp_colour
from pipelines.synthesis.stage import GRAIN_SLACK, Set, Stage, dent, place
from pipelines.synthesis.styles import apply_style
from pipelines.synthesis.timeline import locate, transition


def frames(ready: Set, every: int = 1) -> Iterator[np.ndarray]:
    """The first frame and each `every`th after it, (H, W, 3) uint8 RGB."""
    return (frame_at(ready, index) for index in range(0, ready.film.frames, every))


def frame_at(ready: Set, index: int) -> np.ndarray:
    film = ready.film
    number, elapsed = locate(film, index)
    frame = _draw(ready.stages[number], elapsed, index)
    outgoing, share = transition(film, number, elapsed)
    if outgoing == "dissolve":
        previous = ready.stages[number - 1]
        frame = cv2.addWeighted(_draw(previous, previous.shot.seconds + elapsed, index), 1 - share, frame, share, 0)
    elif outgoing == "fade":
        frame = cv2.convertScaleAbs(frame, alpha=share)
    return lay_over(ready.stamps, frame, index / film.fps, film.letterbox)


def _draw(stage: Stage, time: float, index: int) -> np.ndarray:
    view = view_at(stage.shot.camera, stage.world.aspect, time, stage.shot.seconds)
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
    placed = place(stage, number, view, time)
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
    flash = 1 + 0.3 * dent(stage, number, time)
    share = alpha.astype(np.float32)[..., None] * (1 / 255)
    region = frame[box[1] : box[3], box[0] : box[2]]
    region += np.rint((np.minimum(colour * flash, 255.0) - region) * share).astype(np.int16).astype(np.uint8)
