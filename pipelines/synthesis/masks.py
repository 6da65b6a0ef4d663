"""Which pixels belong to whom: exact masks, from the same sprites and matrices that the picture is drawn with."""

import numpy as np

from pipelines.synthesis.camera import view_at
from pipelines.synthesis.shapes import warp_alpha
from pipelines.synthesis.stage import Set, Stage, place
from pipelines.synthesis.styles import style_mask
from pipelines.synthesis.timeline import locate, transition


def masks_at(ready: Set, index: int) -> dict[str, np.ndarray]:
    """(H, W) bool per visible subject: every pixel it has a part in. During a dissolve both shots' subjects count."""
    film = ready.film
    number, elapsed = locate(film, index)
    found = _visible(ready.stages[number], elapsed)
    if transition(film, number, elapsed)[0] == "dissolve":
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
    if transition(film, number, elapsed)[0] == "dissolve":
        raise ValueError(f"frame {index} lies in a dissolve, where every pixel shows some background")
    stage = ready.stages[number]
    view = view_at(stage.shot.camera, stage.world.aspect, elapsed, stage.shot.seconds)
    open_ground = np.ones((film.size[1], film.size[0]), bool)
    for subject in range(len(stage.sprites)):
        placed = place(stage, subject, view, elapsed)
        if placed is not None:
            matrix, (x0, y0, x1, y1) = placed
            alpha = warp_alpha(stage.sprites[subject], matrix, (x0, y0, x1, y1))
            open_ground[y0:y1, x0:x1] &= alpha < 255
    return ~style_mask(stage.shot.scene.style, open_ground)


def _visible(stage: Stage, time: float) -> dict[str, np.ndarray]:
    view = view_at(stage.shot.camera, stage.world.aspect, time, stage.shot.seconds)
    width, height = stage.size
    found: dict[str, np.ndarray] = {}
    for number, name in enumerate(stage.names):
        placed = place(stage, number, view, time)
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
