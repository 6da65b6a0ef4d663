"""What is laid over the picture: on-screen text, subtitles, watermark, logo, letterbox."""

from fractions import Fraction
from typing import NamedTuple

import cv2
import numpy as np

from pipelines.synthesis.film import COLOURS, Film, Overlay


class Stamp(NamedTuple):
    """An overlay drawn once: `colour` (h, w, 3) uint8, `alpha` (h, w) uint8, at (x, y) of the frame while it shows."""

    overlay: Overlay
    colour: np.ndarray
    alpha: np.ndarray
    x: int
    y: int

    def shows(self, time: Fraction | float) -> bool:
        return self.overlay.start <= time and (self.overlay.end is None or time < self.overlay.end)


def make_stamps(film: Film) -> tuple[Stamp, ...]:
    return tuple(_stamp(overlay, film.size) for overlay in film.overlays)


def lay_over(stamps: tuple[Stamp, ...], frame: np.ndarray, time: Fraction | float, letterbox: float) -> np.ndarray:
    """`frame` with the bars and the overlays that show at `time` (s); subtitles may lie on the bars."""
    bar = round(letterbox * frame.shape[0])
    if bar:
        frame[:bar] = frame[-bar:] = 0
    for stamp in stamps:
        if stamp.shows(time):
            height, width = stamp.alpha.shape
            region = frame[stamp.y : stamp.y + height, stamp.x : stamp.x + width]
            share = stamp.alpha[..., None].astype(np.float32) / 255
            region[:] = np.rint(region + (stamp.colour - region.astype(np.float32)) * share)
    return frame


def overlay_mask(stamps: tuple[Stamp, ...], size: tuple[int, int], time: Fraction | float) -> np.ndarray:
    """(H, W) bool: every pixel touched by one of the overlays that show at `time`."""
    mask = np.zeros((size[1], size[0]), bool)
    for stamp in stamps:
        if stamp.shows(time):
            height, width = stamp.alpha.shape
            mask[stamp.y : stamp.y + height, stamp.x : stamp.x + width] |= stamp.alpha > 0
    return mask


def stamp_box(stamp: Stamp) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) in pixels."""
    x, y, width, height = cv2.boundingRect(stamp.alpha)
    return stamp.x + x, stamp.y + y, stamp.x + x + width, stamp.y + y + height


def _stamp(overlay: Overlay, size: tuple[int, int]) -> Stamp:
    width, height = size
    letters = max(8, round(overlay.size * height))
    alpha = _logo(letters) if overlay.kind == "logo" else _written(overlay.text, letters, width)
    rim = 0 if overlay.kind in ("watermark", "logo") else max(1, letters // 12)
    colour = np.empty((*alpha.shape, 3), np.uint8)
    colour[:] = COLOURS[overlay.colour]
    if rim:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * rim + 1, 2 * rim + 1))
        spread = cv2.dilate(alpha, kernel)
        colour = np.rint(colour * (alpha[..., None] / 255)).astype(np.uint8)
        alpha = spread
    alpha = np.rint(alpha * overlay.opacity).astype(np.uint8)
    alpha = alpha[:height, :width]
    x = round(overlay.position[0] * width - alpha.shape[1] / 2)
    y = round(overlay.position[1] * height - alpha.shape[0] / 2)
    x, y = (min(max(v, 0), room) for v, room in ((x, width - alpha.shape[1]), (y, height - alpha.shape[0])))
    return Stamp(overlay, colour[:height, :width], alpha, x, y)


def _written(text: str, letters: int, room: int) -> np.ndarray:
    """Coverage of `text` in the font built into OpenCV, which knows Latin, Cyrillic, Greek, Han, Kana and Hangul.

    Letters shrink until the line fits into `room` pixels.
    """
    for height in range(letters, 5, -1):
        font = cv2.FontFace("sans")
        canvas = np.zeros((2 * height + 8, max(16, len(text) * height * 2), 3), np.uint8)
        cv2.putText(canvas, text, (4, int(1.4 * height)), (255, 255, 255), font, height, 600)
        x, y, wide, high = cv2.boundingRect(canvas[..., 0])
        if wide + 8 <= room or height == 6:
            return cv2.copyMakeBorder(canvas[y : y + high, x : x + wide, 0], 4, 4, 4, 4, cv2.BORDER_CONSTANT, value=0)
    raise ValueError(f"text overlay {text!r} cannot be drawn {letters} pixels high")


def _logo(letters: int) -> np.ndarray:
    """A round emblem: ring and play sign."""
    side = 2 * letters
    fine = np.zeros((side * 4, side * 4), np.uint8)
    centre = side * 2
    cv2.circle(fine, (centre, centre), int(side * 1.8), 255, max(1, side // 4), cv2.LINE_AA)
    reach = side * 0.9
    corners = [
        (centre - 0.6 * reach, centre - reach),
        (centre - 0.6 * reach, centre + reach),
        (centre + 1.1 * reach, centre),
    ]
    cv2.fillPoly(fine, [np.rint(corners).astype(np.int32)], 255, cv2.LINE_AA)
    return cv2.resize(fine, (side, side), interpolation=cv2.INTER_AREA)
