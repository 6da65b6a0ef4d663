"""What natural footage goes through and is no fault: a hand that holds the camera, light that changes, rain, water,
people who pause. Pictures in and out are streams of (H, W, 3) uint8, sound is (C, N) float32.
"""

from collections.abc import Iterable, Iterator

import cv2
import numpy as np

from pipelines.synthesis.textures import fractal_noise

Frames = Iterable[np.ndarray]
HOLDING_ROOM = 1.25  # how much larger than its view a held picture is

_SWAY = ((0.026, 0.25), (0.011, 0.6), (0.0045, 1.7), (0.002, 4.0))  # (frame heights, Hz) of a hand


def hold(frames: Frames, size: tuple[int, int], fps: float, seed: int = 0) -> Iterator[np.ndarray]:
    """A hand-held view of `size` (width, height) onto larger pictures, which all there is in them moves with."""
    width, height = size
    phases = np.random.default_rng((seed, 0xA4)).uniform(0, 2 * np.pi, (len(_SWAY), 2))
    for index, frame in enumerate(frames):
        swaying = [
            amount * height * np.sin(2 * np.pi * rate * index / fps + phase)
            for (amount, rate), phase in zip(_SWAY, phases, strict=True)
        ]
        x, y = np.sum(swaying, axis=0) + np.array([frame.shape[1] - width, frame.shape[0] - height]) / 2
        to_view = np.array([[1.0, 0.0, -x], [0.0, 1.0, -y]])
        yield cv2.warpAffine(frame, to_view, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def flicker(frames: Frames, fps: float, depth: float = 0.1, seed: int = 0) -> Iterator[np.ndarray]:
    """A tired lamp: brightness swings by `depth` three times a second, and by half of that from frame to frame."""
    rng = np.random.default_rng((seed, 0xF7))
    for index, frame in enumerate(frames):
        gain = 1 + depth * np.sin(2 * np.pi * 3.3 * index / fps) + rng.normal(0, depth / 2)
        yield cv2.convertScaleAbs(frame, alpha=gain)


def adapt_exposure(frames: Frames, fps: float, first: float = 0.67, at_s: float = 0.8) -> Iterator[np.ndarray]:
    """A camera that finds its exposure: `first` of the light at the start, all of it a second later."""
    for index, frame in enumerate(frames):
        share = 1 / (1 + np.exp(-6 * (index / fps - at_s)))
        yield cv2.convertScaleAbs(frame, alpha=first + (1 - first) * share)


def rain(frames: Frames, seed: int = 0, drops: int = 160) -> Iterator[np.ndarray]:
    """Bright streaks, other ones in every frame."""
    rng = np.random.default_rng((seed, 0x4A))
    for frame in frames:
        height, width = frame.shape[:2]
        streaks = np.zeros((height, width), np.uint8)
        for x, y, length, light in rng.uniform((0, -0.1, 0.03, 30), (1, 1, 0.1, 90), (drops, 4)).tolist():
            start = round(x * width), round(y * height)
            end = start[0] + round(0.1 * length * height), start[1] + round(length * height)
            cv2.line(streaks, start, end, (light,), 1, cv2.LINE_AA)
        yield cv2.add(frame, cv2.merge([streaks] * 3))


def water(size: tuple[int, int], fps: float, count: int, seed: int = 0) -> Iterator[np.ndarray]:
    """`count` pictures of `size` (width, height): three layers of waves that run over one another, and glints."""
    width, height = size
    rng = np.random.default_rng((seed, 0x3A))
    layers = [
        fractal_noise(2 * height, 2 * width, rng, coarsest=share * height, decay=0.8) for share in (0.6, 0.33, 0.19)
    ]
    speeds = [rng.uniform(-0.22, 0.22, 2) * height * faster for faster in (0.5, 0.8, 1.2)]
    for index in range(count):
        waves = np.zeros((height, width), np.float32)
        for layer, speed in zip(layers, speeds, strict=True):
            x, y = index / fps * speed
            flat = np.array([[1.0, 0.0, -x], [0.0, 1.8, -y]])  # waves are seen from the side
            waves += cv2.warpAffine(layer, flat, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP) / 1.7
        light = 110 + 28 * np.tanh(1.1 * waves) + 80 * np.clip(waves - 1.1, 0, 1) + rng.normal(0, 2, waves.shape)
        yield np.clip(light[..., None] * np.array([0.75, 0.95, 1.1]), 0, 255).astype(np.uint8)


def pause(audio: np.ndarray, first: float = 0.35, share: float = 0.35, seed: int = 0) -> np.ndarray:
    """Whoever speaks falls silent for `share` of the time from `first` on, and the room is heard, at -65 dBFS."""
    out = audio.copy()
    start, length = round(first * audio.shape[1]), round(share * audio.shape[1])
    room = np.random.default_rng((seed, 0x9A)).standard_normal((audio.shape[0], length))
    out[:, start : start + length] = 10 ** (-65 / 20) * room
    return out
