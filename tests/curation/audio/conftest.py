"""Sounds made from formulas: a vowel-and-fricative talker, a singer, chords, impacts and ambience."""

import numpy as np
import pytest
from scipy.signal import butter, lfilter, sosfilt

import pipelines  # noqa: F401  (before transformers: it makes torchvision importable)

RATE = 44100
VOWELS = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410))


def _source(pitch_hz: np.ndarray) -> np.ndarray:
    """A glottal-like pulse train: harmonics falling by 12 dB an octave."""
    phase = 2 * np.pi * np.cumsum(pitch_hz) / RATE
    return sum(np.sin(k * phase) * (k * pitch_hz < 7000) / k**1.5 for k in range(1, 40))


def _formants(source: np.ndarray, centres: tuple[float, ...]) -> np.ndarray:
    out = np.zeros_like(source)
    for k, centre in enumerate(centres):
        radius = np.exp(-np.pi * (60 + 40 * k) / RATE)
        a = [1, -2 * radius * np.cos(2 * np.pi * centre / RATE), radius**2]
        out += lfilter([1 - radius], a, source) / (k + 1)
    return out


def _fade(n: int, edge_s: float) -> np.ndarray:
    ramp = np.minimum(np.arange(n), np.arange(n)[::-1]) / (edge_s * RATE)
    return np.minimum(ramp, 1.0)


def speech(rng: np.random.Generator, duration_s: float) -> np.ndarray:
    """Syllables of 120-250 ms with falling pitch, every other one opened by a fricative, pauses between words."""
    out, at, base = np.zeros(round(duration_s * RATE)), 0, rng.uniform(95, 230)
    while at < len(out):
        for _ in range(rng.integers(2, 6)):
            n = round(rng.uniform(0.12, 0.25) * RATE)
            pitch = base * np.linspace(rng.uniform(1.0, 1.25), rng.uniform(0.8, 1.0), n)
            parts = [_formants(_source(pitch), VOWELS[rng.integers(len(VOWELS))]) * _fade(n, 0.03)]
            if rng.random() < 0.5:
                hiss = sosfilt(butter(2, (3000, 9000), "band", fs=RATE, output="sos"), rng.normal(0, 1, n // 2))
                parts.insert(0, 0.15 * hiss * _fade(n // 2, 0.02))
            for part in parts:
                room = out[at : at + len(part)]
                room += part[: len(room)]
                at += len(part)
            at += round(rng.uniform(0.01, 0.04) * RATE)
        at += round(rng.uniform(0.1, 0.35) * RATE)
    return _levelled(out)


def singing(rng: np.random.Generator, duration_s: float) -> np.ndarray:
    """Notes of 0.4-1 s on a scale, with vibrato, legato vowels and a little breath."""
    out, at, root = np.zeros(round(duration_s * RATE)), 0, rng.uniform(170, 330)
    while at < len(out):
        n = round(rng.uniform(0.4, 1.0) * RATE)
        note = root * 2 ** (rng.choice([0, 2, 4, 5, 7, 9, 12]) / 12)
        vibrato = 2 ** (0.3 / 12 * np.sin(2 * np.pi * 5.5 * np.arange(n) / RATE))
        part = _formants(_source(note * vibrato), VOWELS[rng.integers(len(VOWELS))]) * _fade(n, 0.04)
        room = out[at : at + n]
        room += part[: len(room)]
        at += n
    breath = sosfilt(butter(1, 2000, "high", fs=RATE, output="sos"), rng.normal(0, 1, len(out)))
    return _levelled(out + 0.04 * out.std() * breath)


def music(rng: np.random.Generator, duration_s: float) -> np.ndarray:
    """Plucked triads and a bass on a beat of 100-130 per minute."""
    out, beat = np.zeros(round(duration_s * RATE)), 60 / rng.uniform(100, 130)
    for k in range(int(duration_s / beat)):
        root = 110 * 2 ** (rng.choice([0, 3, 5, 7, 8, 10]) / 12)
        t = np.arange(round(2 * beat * RATE)) / RATE
        for ratio in (1, 2, 2 * 2 ** (4 / 12), 2 * 2 ** (7 / 12)):
            tone = sum(np.sin(2 * np.pi * root * ratio * h * t) / h**1.2 for h in range(1, 12)) * np.exp(-3 * t)
            room = out[round(k * beat * RATE) :][: len(tone)]
            room += (tone * _fade(len(t), 0.005))[: len(room)]
    return _levelled(out)


def impacts(rng: np.random.Generator, duration_s: float) -> np.ndarray:
    """Struck objects: noise bursts and a few inharmonic, quickly decaying modes, at random moments."""
    out = np.zeros(round(duration_s * RATE))
    for start in np.sort(rng.uniform(0.1, duration_s - 0.4, max(2, int(duration_s * 1.2)))):
        t = np.arange(round(0.4 * RATE)) / RATE
        hit = rng.normal(0, 1, len(t)) * np.exp(-60 * t)
        for mode in rng.uniform(200, 5000, 5):
            hit += 0.4 * np.sin(2 * np.pi * mode * t) * np.exp(-rng.uniform(15, 50) * t)
        out[round(start * RATE) :][: len(t)] += hit
    return _levelled(out)


def ambience(rng: np.random.Generator, duration_s: float) -> np.ndarray:
    """Wind: low-passed noise that swells slowly."""
    n = round(duration_s * RATE)
    wind = sosfilt(butter(1, 800, fs=RATE, output="sos"), rng.normal(0, 1, n))
    return _levelled(wind * (1 + 0.6 * np.sin(2 * np.pi * 0.3 * np.arange(n) / RATE + rng.uniform(0, 6))))


def _levelled(samples: np.ndarray) -> np.ndarray:
    """Stereo float32 (2, N) at -20 dBFS."""
    samples = samples * (0.1 / samples.std())
    return np.stack([samples, samples]).astype(np.float32)


SOUNDS = {"speech": speech, "singing": singing, "music": music, "impacts": impacts, "ambience": ambience}


@pytest.fixture(scope="session")
def sound():
    """`sound(kind, seed, duration_s=6)` -> (2, N) float32 at 44.1 kHz."""
    made: dict[tuple[str, int, float], np.ndarray] = {}

    def make(kind: str, seed: int = 0, duration_s: float = 6.0) -> np.ndarray:
        key = (kind, seed, duration_s)
        if key not in made:
            made[key] = SOUNDS[kind](np.random.default_rng(seed), duration_s)
        return made[key]

    return make
