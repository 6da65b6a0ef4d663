"""Text laid over the picture, told from text in the scene by how it moves.

What is laid over keeps its place to the pixel; a sign goes with the scene, were it by the tremor of a hand. Where
nothing moves at all the two cannot be told apart, and text counts as laid over.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.overlays.matching import Box, displacement
from pipelines.overlays.text import TextLine, text_lines

_STROKE = np.ones((7, 7), np.uint8)
_NEAR = (-2, -1, 1, 2)  # samples beside which a line is looked at
_REACH = 0.12  # of the short side: how far a sign may go between samples; half of it up and down
_SAME_EDGE = 2  # pixels
_RUNNING = 8.0  # pixels between samples, at the least, that the letters of a news ticker run
_TICKER = 0.5  # of the picture's width


class SortedText(NamedTuple):
    """Lines of every sample. Those that are seen in one sample alone are in neither list."""

    laid_over: list[list[TextLine]]
    in_scene: list[list[TextLine]]


def sort_text(lumas: Sequence[NDArray[np.uint8]], apart: int = 1, *, short: bool = False) -> SortedText:
    """The lines of (H, W) samples of one shot, in time order. Of a single sample all are laid over.

    Each is looked at beside those `apart` and twice as far from it: a scene must have time to move. `short`: as in
    `text_lines`.
    """
    lines = [text_lines(luma, short=short) for luma in lumas]
    if len(lumas) < 2 or not any(lines):
        return SortedText(lines, [[] for _ in lumas])
    strokes = [_strokes(luma) for luma in lumas]
    steps = [apart * step for step in _NEAR]
    verdicts = [[_is_laid_over(strokes, lines, at, line, steps) for line in some] for at, some in enumerate(lines)]

    def chosen(wanted: bool) -> list[list[TextLine]]:
        return [
            [line for line, is_laid_over in zip(some, found, strict=True) if is_laid_over is wanted]
            for some, found in zip(lines, verdicts, strict=True)
        ]

    return SortedText(chosen(True), chosen(False))


def _strokes(luma: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Bright strokes positive, dark ones negative, and nothing of what is behind them."""
    bright = cv2.morphologyEx(luma, cv2.MORPH_TOPHAT, _STROKE)
    return bright.astype(np.float32) - cv2.morphologyEx(luma, cv2.MORPH_BLACKHAT, _STROKE)


def _is_laid_over(
    strokes: Sequence[NDArray[np.float32]],
    lines: Sequence[Sequence[TextLine]],
    at: int,
    line: TextLine,
    steps: Sequence[int],
) -> bool | None:
    """Whether the line of sample `at` stays where it is in the samples around; None where none of them has it."""
    box, reach = _pixels(line, strokes[at].shape), round(_REACH * min(strokes[at].shape))
    near = [at + step for step in steps if 0 <= at + step < len(strokes)]
    seen = [displacement(strokes[at], strokes[n], box, (reach, reach // 2)) for n in near]
    stays, moved = sum(one.stays for one in seen), [one for one in seen if one.moved]
    if stays > len(moved):
        return True
    if all(abs(one.dx) > _RUNNING for one in moved) and _is_ticker(strokes, lines, at, box):
        return True
    return False if moved else None


def _is_ticker(strokes: Sequence[NDArray[np.float32]], lines: Sequence[Sequence[TextLine]], at: int, box: Box) -> bool:
    """Whether letters fill half of one row and the same one in the samples beside: they run, and the row stays."""
    for n in range(max(0, at - 1), min(len(lines), at + 2)):
        row = [other for line in lines[n] if _same_row(box, other := _pixels(line, strokes[n].shape))]
        if sum(width for _, _, width, _ in row) < _TICKER * strokes[n].shape[1]:
            return False
    return True


def _pixels(line: TextLine, shape: tuple[int, ...]) -> Box:
    height, width = shape
    return round(line.x * width), round(line.y * height), round(line.width * width), round(line.height * height)


def _same_row(a: Box, b: Box) -> bool:
    return max(abs(a[1] - b[1]), abs(a[3] - b[3])) <= _SAME_EDGE
