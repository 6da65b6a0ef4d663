"""Sounds from first principles: struck materials, plucked chords, tones, ambience. All (N,) float32 at unit peak."""

import functools
import math

import numpy as np
from scipy import signal

from pipelines.synthesis.film import Ambience, MaterialName, Music

# Partials of a struck body: (frequency in Hz, seconds to fall by 60 dB, strength), and the share of the contact noise.
# Ratios after the bars, plates and membranes of musical acoustics; values tuned by ear.
STRUCK: dict[MaterialName, tuple[tuple[tuple[float, float, float], ...], float]] = {
    "wood": (((310, 0.16, 1.0), (855, 0.11, 0.6), (1680, 0.07, 0.4), (3100, 0.04, 0.25)), 0.5),
    "metal": (((640, 0.9, 0.7), (1765, 0.8, 0.8), (3460, 0.6, 0.6), (5700, 0.45, 0.45), (8500, 0.3, 0.3)), 0.35),
    "glass": (((1980, 0.5, 1.0), (4310, 0.4, 0.7), (6900, 0.3, 0.5), (10400, 0.2, 0.35)), 0.4),
    "rubber": (((115, 0.18, 1.0), (205, 0.12, 0.5), (420, 0.06, 0.25)), 0.3),
    "stone": (((480, 0.06, 0.8), (1270, 0.05, 0.8), (2650, 0.04, 0.6), (4900, 0.03, 0.4)), 0.8),
}
DECAY_60_DB = math.log(1000.0)


def impact_sound(material: MaterialName, size: float, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """A hit on a body of the given material; smaller bodies (`size` in frame heights) sound higher.

    The first sample is the moment of contact.
    """
    modes, contact = STRUCK[material]
    pitch = (0.1 / max(size, 0.02)) ** 0.5
    length = max(decay for _, decay, _ in modes)
    time = np.arange(int(length * sample_rate)) / sample_rate
    body = np.zeros_like(time)
    for frequency, decay, strength in modes:
        if frequency * pitch < 0.45 * sample_rate:
            body += strength * np.exp(-DECAY_60_DB * time / decay) * np.cos(2 * math.pi * frequency * pitch * time)
    body += 2.5 * contact * rng.standard_normal(time.size) * np.exp(-DECAY_60_DB * time / 0.02)
    return _unit(body)


def tone(frequency: float, seconds: float, sample_rate: int) -> np.ndarray:
    """A steady tone with its octave and 3 ms ramps."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    wave = np.sin(2 * math.pi * frequency * time) + 0.3 * np.sin(4 * math.pi * frequency * time)
    ramp = np.clip(np.minimum(time, time[-1] - time) / 0.003, 0.0, 1.0)
    return _unit(wave * ramp)


def play_music(music: Music, samples: int, sample_rate: int, seed: int) -> np.ndarray:
    """(2, samples) chords plucked note by note over a bass, hi-hat on the off-beats, peak 1."""
    rng = np.random.default_rng((seed, 0x3C))
    beat = 60.0 / music.tempo
    out = np.zeros((2, samples), np.float32)
    chord = (0, 3, 7, 12) if music.minor else (0, 4, 7, 12)
    pattern = (0, 2, 1, 3) if music.mood == "calm" else (3, 1, 2, 0)
    for step in range(math.ceil(samples / sample_rate / (beat / 2))):
        start = round(step * beat / 2 * sample_rate)
        root = music.key + music.progression[(step // 4) % len(music.progression)]
        mix_in(out, 0.5 * _pluck(root + chord[pattern[step % 4]], 0.7, sample_rate), start, 0.35 + 0.1 * (step % 4))
        if step % 4 == 0:
            mix_in(out, 0.8 * _pluck(root - 12, 1.0, sample_rate), start, 0.5)
        if step % 2:
            hat = rng.standard_normal(sample_rate // 12) * np.exp(-DECAY_60_DB * np.arange(sample_rate // 12) / 3000)
            mix_in(out, 0.12 * np.diff(hat, prepend=0.0), start, 0.6)
    return _unit(out)


def play_ambience(ambience: Ambience, samples: int, sample_rate: int, seed: int) -> np.ndarray:
    """(2, samples) of coloured noise at unit RMS."""
    rng = np.random.default_rng((seed, 0xA3))
    noise = rng.standard_normal((2, samples))
    seconds = samples / sample_rate
    marks = np.arange(0.0, seconds + 1.4, 0.7)
    slow = np.interp(np.arange(samples) / sample_rate, marks, rng.uniform(0.4, 1.0, marks.size))
    if ambience.kind == "rain":
        drops = (rng.random((2, samples)) < 900 / sample_rate) * rng.exponential(8.0, (2, samples))
        shaped = signal.lfilter([1, -0.6], [1, -0.3], noise + drops)
    elif ambience.kind == "room":
        shaped = signal.lfilter([1], [1, -0.6], noise)
    else:
        shaped = signal.lfilter([1], [1, -0.97], noise) * (slow if ambience.kind == "wind" else slow**2)
    return (shaped / np.sqrt(np.mean(shaped**2))).astype(np.float32)


@functools.lru_cache(maxsize=128)
def _pluck(note: float, seconds: float, sample_rate: int) -> np.ndarray:
    """A plucked string of MIDI `note`: harmonics that die away the faster the higher they are."""
    frequency = 440.0 * 2 ** ((note - 69) / 12)
    time = np.arange(int(seconds * sample_rate)) / sample_rate
    wave = np.zeros_like(time)
    for harmonic in range(1, min(40, int(0.42 * sample_rate / frequency)) + 1):
        decay = seconds / (1 + 0.12 * harmonic)
        stretched = frequency * harmonic * math.sqrt(1 + 0.0002 * harmonic**2)
        wave += harmonic**-1.2 * np.exp(-DECAY_60_DB * time / decay) * np.sin(2 * math.pi * stretched * time)
    return _unit(wave * np.clip(time / 0.002, 0, 1))


def mix_in(out: np.ndarray, sound: np.ndarray, start: int, pan: float) -> None:
    """Add a mono sound at sample `start`; `pan` from 0 (left) to 1 (right), equal power."""
    if start < 0 or start >= out.shape[1]:
        return
    sound = sound[: out.shape[1] - start]
    for channel, gain in enumerate((math.cos(pan * math.pi / 2), math.sin(pan * math.pi / 2))):
        out[channel, start : start + sound.size] += (gain * sound).astype(np.float32)


def _unit(wave: np.ndarray) -> np.ndarray:
    return (wave / max(float(np.abs(wave).max()), 1e-9)).astype(np.float32)
