"""Lines of text on a picture: thin strokes of one line height, close together, on quieter ground."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

_STROKE = np.ones((7, 7), np.uint8)  # strokes are thinner than this, at 288 lines
_LINES = 288
_SPILL = 0.3  # most ink just above and below a line, as a share of the ink in it: texture goes on, a line ends
_CONTRAST = (12.0, 36.0)  # luma levels between a stroke and its ground: faint letters count on quiet ground only
_PROMINENCE = 5.0  # times the picture's mean response to thin strokes
_LONG = 2.8  # times its height: what a line is at the least
_SHORT = 1.5  # the same of two characters that are as wide as they are high
_TURNS = (2.0, 14.0)  # from stroke to ground and back, along as much of a line as it is high
_SHORT_TURNS = 3.0  # at the least, along or down: such characters are dense, and some are stacks of bars


class TextLine(NamedTuple):
    """A box in fractions of the picture, the share of its pixels that are strokes, and whether it is a short line."""

    x: float
    y: float
    width: float
    height: float
    ink: float
    short: bool = False


def text_lines(luma: NDArray[np.uint8], *, short: bool = False) -> list[TextLine]:
    """Text-like lines of a (H, W) picture; `short`: of two characters as well, which more of a scene looks like."""
    scale = _LINES / min(luma.shape)
    size = (max(16, round(luma.shape[1] * scale)), max(16, round(luma.shape[0] * scale)))
    picture = cv2.resize(luma, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    found, brief = [], []
    for stroke in (
        cv2.morphologyEx(picture, cv2.MORPH_TOPHAT, _STROKE),
        cv2.morphologyEx(picture, cv2.MORPH_BLACKHAT, _STROKE),
    ):
        contrast = min(max(_PROMINENCE * cv2.mean(stroke)[0], _CONTRAST[0]), _CONTRAST[1])
        strokes = cv2.threshold(stroke, contrast, 1, cv2.THRESH_BINARY)[1]
        found += _lines(strokes)
        brief += _short_lines(strokes) if short else []
    lines = _without_nested(found)
    beside = [box for box in _without_nested(brief) if not any(_meet(box, line) for line in lines)]
    return [
        TextLine(x / size[0], y / size[1], w / size[0], h / size[1], ink, is_short)
        for boxes, is_short in ((lines, False), (beside, True))
        for x, y, w, h, ink in boxes
    ]


def _lines(strokes: NDArray[np.uint8]) -> list[tuple[int, int, int, int, float]]:
    joined = cv2.morphologyEx(strokes, cv2.MORPH_CLOSE, np.ones((1, 11), np.uint8))
    joined = cv2.morphologyEx(joined, cv2.MORPH_OPEN, np.ones((3, 9), np.uint8))
    found = []
    for x, y, w, h, area in regions(joined):
        if not (5 <= h <= 0.16 * strokes.shape[0] and w >= _LONG * h and area >= 0.5 * w * h):
            continue
        ink = _ink(strokes, (x, y, w, h))
        if ink and _TURNS[0] <= _turns_along(strokes[y : y + h, x : x + w]) <= _TURNS[1]:
            found.append((x, y, w, h, ink))
    return found


def _short_lines(strokes: NDArray[np.uint8]) -> list[tuple[int, int, int, int, float]]:
    """Lines of two characters. Their strokes are joined down as well: some stand above each other."""
    joined = cv2.morphologyEx(strokes, cv2.MORPH_CLOSE, np.ones((9, 15), np.uint8))
    joined = cv2.morphologyEx(joined, cv2.MORPH_OPEN, np.ones((9, 9), np.uint8))
    found = []
    for x, y, w, h, area in regions(joined):
        if not (12 <= h <= 0.16 * strokes.shape[0] and _SHORT * h <= w < _LONG * h and area >= 0.5 * w * h):
            continue
        inside = strokes[y : y + h, x : x + w]
        down = np.count_nonzero(inside[1:] != inside[:-1]) / w
        ink = _ink(strokes, (x, y, w, h))
        if ink and _SHORT_TURNS <= max(_turns_along(inside), down) <= _TURNS[1]:
            found.append((x, y, w, h, ink))
    return found


def _turns_along(inside: NDArray[np.uint8]) -> float:
    height, width = inside.shape
    return np.count_nonzero(inside[:, 1:] != inside[:, :-1]) / height / (width / height)


def _ink(strokes: NDArray[np.uint8], box: tuple[int, int, int, int]) -> float:
    """The share of a box that is strokes; 0 where it is not as in text, or goes on above or below."""
    x, y, w, h = box
    ink = float(strokes[y : y + h, x : x + w].mean())
    gap = max(2, h // 3)
    around = np.concatenate([strokes[max(0, y - gap) : y, x : x + w], strokes[y + h : y + h + gap, x : x + w]])
    return ink if 0.15 <= ink <= 0.75 and around.mean() <= _SPILL * ink else 0.0


def regions(mask: NDArray[np.uint8]) -> list[tuple[int, int, int, int, int]]:
    """x, y, width, height and pixels of every 4-connected region of a mask of 0 and 1, in the order of OpenCV's labels.

    OpenCV's own statistics look at every pixel of a mask that is nearly empty, which takes twice the time.
    """
    _, labels = cv2.connectedComponents(mask, connectivity=4)
    places = np.flatnonzero(mask.view(np.bool_))
    if len(places) == 0:
        return []
    label = labels.ravel()[places]
    order = np.argsort(label, kind="stable")  # places rise within each region
    places = places[order]
    starts = np.flatnonzero(np.diff(label[order], prepend=0))
    y, x = np.divmod(places, mask.shape[1])
    top, bottom = np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)
    left, right = np.minimum.reduceat(x, starts), np.maximum.reduceat(x, starts)
    pixels = np.diff(starts, append=len(places))
    return list(zip(*(v.tolist() for v in (left, top, right - left + 1, bottom - top + 1, pixels)), strict=True))


def _meet(one: tuple[int, int, int, int, float], other: tuple[int, int, int, int, float]) -> bool:
    x, y, w, h, _ = one
    a, b, c, d, _ = other
    return x < a + c and a < x + w and y < b + d and b < y + h


def _without_nested(boxes: list[tuple[int, int, int, int, float]]) -> list[tuple[int, int, int, int, float]]:
    """One box per line: bright letters with dark rims are found twice."""
    kept: list[tuple[int, int, int, int, float]] = []
    for box in sorted(boxes, key=lambda b: b[2] * b[3], reverse=True):
        x, y, w, h, _ = box
        if not any(
            min(x + w, a + c) - max(x, a) > 0.5 * w and min(y + h, b + d) - max(y, b) > 0.5 * h
            for a, b, c, d, _ in kept
        ):
            kept.append(box)
    return kept
