"""Words laid over a film, as subtitles are, and where they are found again."""

import math

import cv2
import numpy as np

from pipelines.evaluation.films import FINER, Example, Format
from pipelines.overlays.find import find_overlays
from pipelines.synthesis.studio import render

LINES = 256
"""Of the film when words are laid over it: letters are drawn as large as they are in the wild."""
_WORDS = ("GOOD MORNING", "AN HOUR AGO", "NOT TODAY", "RED HOUSE", "LISTEN", "WAIT FOR ME", "CHAPTER TWO")
_INKS = ((255, 255, 255), (250, 230, 60))
_FONT, _SCALE, _PEN, _RIM = cv2.FONT_HERSHEY_SIMPLEX, 0.9, 2, 6
_EDGE = 30  # pixels of the film from words to its edge


def with_words(example: Example, form: Format) -> np.ndarray:
    """The film's pictures (F, LINES, W, 3) uint8, with a rimmed line at their foot or head through all of them."""
    words, ink = _WORDS[example.film.seed % len(_WORDS)], _INKS[example.film.seed // 2 % len(_INKS)]
    width = round(LINES * form.width / form.height)
    (long, tall), _ = cv2.getTextSize(words, _FONT, _SCALE, _PEN)
    at = (width - long) // 2, LINES - _EDGE if example.film.seed % 3 else _EDGE + tall
    shown = []
    for frame in render(example.film).frames(every=FINER):
        large = cv2.resize(frame, (width, LINES), interpolation=cv2.INTER_LINEAR)
        for pen, colour in ((_RIM, (0, 0, 0)), (_PEN, ink)):
            cv2.putText(large, words, at, _FONT, _SCALE, colour, pen, cv2.LINE_AA)
        shown.append(large)
    return np.stack(shown)


def found_again(frames: np.ndarray, form: Format) -> np.ndarray:
    """(F, H, W) True where words are found over `frames`, in a clip of the format."""
    hole = np.zeros((form.frames, form.height, form.width), bool)
    lumas = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    for overlay in find_overlays(lumas, 1 / form.fps, {"text"}).overlays:
        first, last = (round(second * form.fps) for second in (overlay.start_s, overlay.end_s))
        rows = slice(math.floor(overlay.area.top * form.height), math.ceil(overlay.area.bottom * form.height))
        columns = slice(math.floor(overlay.area.left * form.width), math.ceil(overlay.area.right * form.width))
        hole[first:last, rows, columns] = True
    return hole


def brought_down(frames: np.ndarray, form: Format) -> np.ndarray:
    """Pictures in the size of the format."""
    size = (form.width, form.height)
    return np.stack([cv2.resize(one, size, interpolation=cv2.INTER_AREA) for one in frames])
