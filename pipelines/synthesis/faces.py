"""A face for subjects that speak: the mouth opens as far as the voice is loud, frame by frame."""

import math

import cv2
import numpy as np

from pipelines.synthesis.film import Film
from pipelines.synthesis.sound import mix_in
from pipelines.synthesis.voice import speak

SUBPIXEL_BITS = 4


def mouth_openings(film: Film) -> np.ndarray:
    """(frames,) from 0, shut, to 1: the voices' loudness within half a frame of each frame's time."""
    voices = np.zeros((2, film.samples), np.float32)
    for line in film.sound.lines:
        mix_in(voices, speak(line, film.sample_rate).samples, round(line.start * film.sample_rate), 0.0)
    energy = np.concatenate([[0.0], np.cumsum(np.square(voices[0], dtype=np.float64))])
    middle = np.arange(film.frames) * film.sample_rate / float(film.fps)
    half = 0.5 * film.sample_rate / float(film.fps)
    first, last = (np.clip(middle + side * half, 0, film.samples).astype(int) for side in (-1, 1))
    loudness = np.sqrt((energy[last] - energy[first]) / np.maximum(last - first, 1))
    return np.clip(loudness / max(float(np.quantile(loudness, 0.95)), 1e-6), 0.0, 1.0)


def draw_face(colour: np.ndarray, centre: np.ndarray, linear: np.ndarray, radius: float, opening: float) -> None:
    """Draw eyes and mouth into `colour` (h, w, 3) uint8.

    `centre` (2,) is the face's middle in pixels of `colour`; `linear` (2, 2) turns and scales the subject, whose
    shape has `radius` before that.
    """
    angle = math.degrees(math.atan2(linear[1, 0], linear[0, 0]))
    scale = radius * math.sqrt(abs(float(np.linalg.det(linear))))

    def ellipse(place: tuple[float, float], axes: tuple[float, float], shade: tuple[int, int, int]) -> None:
        x, y = (centre + linear @ (np.array(place) * radius)) * 2**SUBPIXEL_BITS
        wide, high = (max(1, round(axis * scale * 2**SUBPIXEL_BITS)) for axis in axes)
        cv2.ellipse(
            colour, (round(x), round(y)), (wide, high), angle, 0, 360, shade, cv2.FILLED, cv2.LINE_AA, SUBPIXEL_BITS
        )

    for side in (-0.28, 0.28):
        ellipse((side, -0.22), (0.13, 0.15), (240, 240, 236))
        ellipse((side, -0.2), (0.06, 0.07), (24, 22, 26))
    ellipse((0.0, 0.3), (0.3 - 0.06 * opening, 0.03 + 0.22 * opening), (70, 18, 24))
