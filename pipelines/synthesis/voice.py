"""Voices: real speech where espeak-ng is installed, else a formant synthesiser; singing always by the latter.

The formant synthesiser follows the source-filter model: a pulse train or noise through second-order resonators at the
formant frequencies of each sound (cascade form, after D. Klatt, JASA 67, 1980).
"""

import functools
import io
import math
import shutil
import subprocess
from dataclasses import dataclass

import numpy as np
import soundfile
from scipy import signal

from pipelines.synthesis.film import Line

HOP_SECONDS = 0.005
BREATH = 0.006  # turbulence at the lips, which fills the band above the formants; of the voice's peak
# Formants F1..F3 in Hz of an adult male.
VOWELS: dict[str, tuple[float, float, float]] = {
    "a": (730, 1200, 2450),
    "e": (500, 1850, 2500),
    "i": (290, 2250, 2950),
    "o": (500, 900, 2400),
    "u": (320, 850, 2250),
    "y": (300, 1900, 2300),
}
# Voiced consonants as formants with a lower level.
SONORANTS: dict[str, tuple[float, float, float]] = {
    "m": (270, 1000, 2200),
    "n": (280, 1600, 2600),
    "l": (360, 1150, 2600),
    "r": (420, 1250, 1700),
    "w": (300, 750, 2200),
    "j": (290, 2150, 2900),
}
# Noise consonants: (centre in Hz, bandwidth in Hz, seconds, level, voiced).
FRICATIVES: dict[str, tuple[float, float, float, float, bool]] = {
    "s": (7000, 4000, 0.11, 0.30, False),
    "z": (6500, 4000, 0.08, 0.20, True),
    "c": (4200, 2500, 0.10, 0.30, False),
    "x": (2200, 1800, 0.09, 0.20, False),
    "f": (5500, 6000, 0.09, 0.12, False),
    "v": (4500, 5000, 0.06, 0.10, True),
    "h": (1700, 2500, 0.06, 0.12, False),
    "q": (5200, 3500, 0.09, 0.28, False),
}
# Stops: centre of the burst in Hz, voiced.
STOPS: dict[str, tuple[float, bool]] = {
    "p": (900, False),
    "b": (800, True),
    "t": (4200, False),
    "d": (3600, True),
    "k": (2000, False),
    "g": (1800, True),
}


NoiseBurst = tuple[int, int, float, float, float]  # first hop, hops, centre in Hz, bandwidth in Hz, level


@dataclass(frozen=True)
class Spoken:
    """Samples (N,) float32 at unit peak, and what made them: "espeak-ng" or "formant"."""

    samples: np.ndarray
    source: str


@functools.lru_cache(maxsize=64)
def speak(line: Line, sample_rate: int) -> Spoken:
    """Say or sing a line; the first sample that sounds is sample 0."""
    if not line.notes and shutil.which("espeak-ng"):
        return Spoken(_espeak(line, sample_rate), "espeak-ng")
    return Spoken(_formant(line, sample_rate), "formant")


def _espeak(line: Line, sample_rate: int) -> np.ndarray:
    # espeak-ng's pitch 50 is near 110 Hz for its default voice; speed in words per minute.
    pitch = int(np.clip(50 + 60 * math.log2(line.pitch / 110.0), 0, 99))
    command = [
        "espeak-ng",
        "--stdout",
        "-v",
        line.language,
        "-p",
        str(pitch),
        "-s",
        str(int(165 * line.speed)),
        line.text,
    ]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    if done.returncode or not done.stdout:
        reason = done.stderr.decode(errors="replace").strip()
        raise RuntimeError(f"espeak-ng could not say {line.text!r} in {line.language!r}: {reason}")
    wave, rate = soundfile.read(io.BytesIO(done.stdout), dtype="float32")
    shared = math.gcd(sample_rate, rate)
    wave = signal.resample_poly(wave, sample_rate // shared, rate // shared)
    return _trimmed(wave)


def _formant(line: Line, sample_rate: int) -> np.ndarray:
    """Every sound of the phonetic spelling in turn, joined by gliding formants."""
    sounds = _sounds(line)
    hops = [max(1, round(seconds / HOP_SECONDS)) for _, seconds, _ in sounds]
    total = sum(hops)
    formants, voicing, pitch = np.zeros((total, 3)), np.zeros(total), np.zeros(total)
    noise: list[NoiseBurst] = []
    at, last = 0, VOWELS["a"]
    for (sound, _, hertz), length in zip(sounds, hops, strict=True):
        span = slice(at, at + length)
        pitch[span] = hertz
        if sound in VOWELS or sound in SONORANTS:
            last = VOWELS.get(sound) or SONORANTS[sound]
            voicing[span] = 1.0 if sound in VOWELS else 0.45
        elif sound in FRICATIVES:
            centre, width, _, level, voiced = FRICATIVES[sound]
            noise.append((at, length, centre, width, level))
            voicing[span] = 0.25 if voiced else 0.0
        elif sound in STOPS:
            centre, voiced = STOPS[sound]
            noise.append((at + length - 3, 3, centre, 1500, 0.35))
            voicing[span] = 0.12 if voiced else 0.0
        formants[span] = last
        at += length
    smooth = np.hanning(9) / np.hanning(9).sum()
    formants = np.stack([_smoothed(column, smooth) for column in formants.T], axis=1)
    voicing, pitch = _smoothed(voicing, smooth), _smoothed(pitch, smooth)
    if line.pitch > 160:
        formants = formants * 1.16  # a shorter vocal tract goes with a higher voice
    return _trimmed(_filtered(formants, voicing, pitch, noise, bool(line.notes), sample_rate))


def _sounds(line: Line) -> list[tuple[str, float, float]]:
    """(sound, seconds, Hz) of each letter of the phonetic spelling; spaces pause; a falling melody, or the notes'."""
    spelling = (line.phonetic or line.text).lower()
    letters = [c for c in spelling if c in VOWELS or c in SONORANTS or c in FRICATIVES or c in STOPS or c == " "]
    if not any(c in VOWELS for c in letters):
        raise ValueError(
            f"the formant voice cannot say {line.text!r}: give `phonetic`, its sound in plain Latin letters with vowels"
        )
    sounds, syllable, vowels = [], 0, sum(c in VOWELS for c in letters)
    for place, letter in enumerate(letters):
        share = place / len(letters)
        hertz = line.pitch * (1.12 - 0.25 * share + 0.05 * math.sin(9 * share))
        if line.notes:
            hertz = 440.0 * 2 ** ((line.notes[min(syllable, len(line.notes) - 1)] - 69) / 12)
        if letter in VOWELS:
            seconds = 0.36 if line.notes else 0.1 if syllable < vowels - 1 else 0.17
            syllable += 1
        elif letter in FRICATIVES:
            seconds = FRICATIVES[letter][2]
        else:
            seconds = 0.065 if letter != " " else (0.03 if line.notes else 0.07)
        sounds.append((letter, seconds / line.speed, hertz))
    return sounds


def _smoothed(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return np.convolve(np.pad(values, len(kernel) // 2, mode="edge"), kernel, mode="valid")


def _filtered(
    formants: np.ndarray,
    voicing: np.ndarray,
    pitch: np.ndarray,
    noise: list[NoiseBurst],
    sung: bool,
    sample_rate: int,
) -> np.ndarray:
    hop = round(HOP_SECONDS * sample_rate)
    rng = np.random.default_rng(0x70)
    hertz, level = np.repeat(pitch, hop), np.repeat(voicing, hop)
    level = signal.lfilter([0.01], [1, -0.99], level)
    time = np.arange(hertz.size) / sample_rate
    if sung:
        hertz = hertz * (1 + 0.012 * np.sin(2 * math.pi * 5.5 * time) * np.clip(time / 0.3, 0, 1))
    phase = np.cumsum(hertz) / sample_rate
    # Rosenberg's pulse C (JASA 49, 1971): opens for 40 % of the period, closes in 16 % with a jerk. The tract hears
    # its slope.
    cycle = phase % 1.0
    flow = np.where(cycle < 0.4, 0.5 - 0.5 * np.cos(math.pi * cycle / 0.4), np.cos(math.pi / 2 * (cycle - 0.4) / 0.16))
    flow = np.where(cycle < 0.56, flow, 0.0)
    wave = np.diff(flow, prepend=0.0) * 30 * level + 0.004 * rng.standard_normal(hertz.size) * level
    for band, width in enumerate((80.0, 100.0, 140.0)):
        wave = _resonate(wave, formants[:, band], width, hop, sample_rate)
    wave = _resonate(wave, np.full(len(formants), 3600.0), 250.0, hop, sample_rate)
    wave /= max(float(np.abs(wave).max()), 1e-9)
    wave += BREATH * rng.standard_normal(wave.size) * level
    for at, length, centre, width, strength in noise:
        span = slice(max(0, at) * hop, (at + length) * hop)
        count = span.stop - span.start
        edges = [max(100.0, centre - width / 2), min(0.48 * sample_rate, centre + width / 2)]
        shape = signal.butter(2, edges, "band", fs=sample_rate, output="sos")
        burst = signal.sosfilt(shape, rng.standard_normal(count))
        wave[span] += strength * burst * np.hanning(count + 2)[1:-1]
    return wave


def _resonate(wave: np.ndarray, centres: np.ndarray, width: float, hop: int, sample_rate: int) -> np.ndarray:
    """A second-order resonator whose centre (Hz) changes every hop, unit gain at 0 Hz."""
    out, state = np.empty_like(wave), np.zeros(2)
    radius = math.exp(-math.pi * width / sample_rate)
    for k, centre in enumerate(centres):
        b, c = 2 * radius * math.cos(2 * math.pi * centre / sample_rate), -radius * radius
        span = slice(k * hop, (k + 1) * hop)
        out[span], state = signal.lfilter([1 - b - c], [1, -b, -c], wave[span], zi=state)
    return out


def _trimmed(wave: np.ndarray) -> np.ndarray:
    """Without the silence round it, at unit peak."""
    wave = wave / max(float(np.abs(wave).max()), 1e-9)
    loud = np.flatnonzero(np.abs(wave) > 0.01)
    return wave[loud[0] : loud[-1] + 1].astype(np.float32)
