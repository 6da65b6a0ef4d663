"""Faults planted on purpose: in the film itself, in its pictures, in its sound.

Pictures in and out are streams of (H, W, 3) uint8, sound is (C, N) float32.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice

import cv2
import numpy as np
from scipy import signal

from pipelines.synthesis.film import Camera, Film, Motion, Scene

Frames = Iterable[np.ndarray]


def freeze(film: Film) -> Film:
    """Nothing moves, neither subjects nor camera; only the sensor noise is alive."""
    return replace(film, shots=tuple(replace(shot, scene=_stopped(shot.scene), camera=Camera()) for shot in film.shots))


def shake(film: Film, amount: float = 0.08, seed: int = 0) -> Film:
    """The camera trembles by up to `amount` frame heights in every shot."""
    return replace(film, shots=tuple(replace(shot, camera=Camera("shake", amount, seed=seed)) for shot in film.shots))


def blur(frames: Frames, radius: float = 0.02) -> Iterator[np.ndarray]:
    """Out of focus: a Gaussian of standard deviation `radius` in frame heights."""
    return (cv2.GaussianBlur(frame, (0, 0), radius * frame.shape[0]) for frame in frames)


def expose(frames: Frames, stops: float) -> Iterator[np.ndarray]:
    """Over-exposed (`stops` > 0) or under-exposed by so many stops, in linear light; highlights clip."""
    linear = (np.arange(256) / 255.0) ** 2.2 * 2.0**stops
    curve = np.rint(255 * np.clip(linear, 0, 1) ** (1 / 2.2)).astype(np.uint8)
    return (cv2.LUT(frame, curve) for frame in frames)


def repeat_frames(frames: Frames, every: int = 3) -> Iterator[np.ndarray]:
    """Drop all but one frame in `every` and hold it instead: the length stays, the motion stutters."""
    held = None
    for index, frame in enumerate(frames):
        if held is None or index % every == 0:
            held = frame
        yield held


def crop(frames: Frames, share: float = 0.04) -> Iterator[np.ndarray]:
    """Cut `share` of each side away and scale back to the same size."""
    for frame in frames:
        height, width = frame.shape[:2]
        dy, dx = round(share * height), round(share * width)
        yield cv2.resize(frame[dy : height - dy, dx : width - dx], (width, height), interpolation=cv2.INTER_CUBIC)


def brighten(frames: Frames, gain: float = 1.15) -> Iterator[np.ndarray]:
    return (cv2.convertScaleAbs(frame, alpha=gain) for frame in frames)


def trim(frames: Frames, first: int, count: int) -> Iterator[np.ndarray]:
    return islice(iter(frames), first, first + count)


def clip_sound(audio: np.ndarray, share: float = 0.2) -> np.ndarray:
    """Overdrive until `share` of the samples sit at full scale."""
    ceiling = float(np.quantile(np.abs(audio), 1 - share))
    if ceiling <= 0:
        raise ValueError("silent sound cannot be clipped")
    return np.clip(audio / ceiling, -1.0, 1.0).astype(np.float32)


def add_noise(audio: np.ndarray, snr_db: float = 0.0, seed: int = 0) -> np.ndarray:
    """White noise `snr_db` below the sound's mean power; the mix is scaled down where it would clip."""
    noise = np.random.default_rng((seed, 0x9E)).standard_normal(audio.shape)
    noisy = audio + noise * np.sqrt(np.mean(np.square(audio)) / 10 ** (snr_db / 10))
    return (noisy * min(1.0, 0.95 / float(np.abs(noisy).max()))).astype(np.float32)


def mute(audio: np.ndarray, share: float = 1.0) -> np.ndarray:
    """Digital silence over the last `share` of the sound."""
    out = audio.copy()
    out[:, round((1 - share) * audio.shape[1]) :] = 0.0
    return out


def limit_bandwidth(audio: np.ndarray, sample_rate: int, cutoff: float = 3400.0) -> np.ndarray:
    """Telephone sound: nothing above `cutoff` Hz (tenth-order Butterworth, no phase shift)."""
    filters = signal.butter(10, cutoff, fs=sample_rate, output="sos")
    return signal.sosfiltfilt(filters, audio, axis=1).astype(np.float32)


def shift_sound(audio: np.ndarray, samples: int) -> np.ndarray:
    """Sound `samples` late (negative: early) against the picture; the gap is silent, the length stays."""
    out = np.zeros_like(audio)
    if abs(samples) >= audio.shape[1]:
        raise ValueError(f"a shift of {samples} samples leaves nothing of {audio.shape[1]}")
    if samples >= 0:
        out[:, samples:] = audio[:, : audio.shape[1] - samples]
    else:
        out[:, :samples] = audio[:, -samples:]
    return out


def _stopped(scene: Scene) -> Scene:
    return replace(
        scene, subjects=tuple(replace(one, motion=Motion("still", one.motion.start)) for one in scene.subjects)
    )
