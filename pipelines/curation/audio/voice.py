"""What tells a voice from an instrument and from noise: numbers that describe a few seconds of sound."""

from dataclasses import dataclass

import numpy as np

from pipelines.curation.audio.frames import AudioFrames
from pipelines.curation.audio.rhythm import beat

VOICED_HARMONICITY = 0.7
ACTIVE_RANGE_DB = 35.0
FAINTEST_DB = -75.0
SYLLABLE_RATE_HZ = (2.5, 8.0)
LONGEST_GLIDE = 2.0  # semitones in 20 ms: a larger step is a new note or a mistaken octave
HELD_SPAN = 1.3  # semitones within 180 ms: a held note, vibrato included
HELD_FRAMES = 9


@dataclass(frozen=True)
class VoiceFeatures:
    """Of the active frames (within 35 dB of the loud ones) of a stretch of sound.

    voiced: share with a clear pitch; glide: median pitch change in semitones per 20 ms (speech above 0.25, instruments
    near 0); held: share of voiced frames on a held note; modulation: share of the envelope's spectrum at syllable rate,
    2.5-8 Hz (Scheirer & Slaney 1997 use 4 Hz); depth: standard deviation of the envelope over its mean;
    stability: mean likeness of the spectrum to that 80 ms before; beat: strength of the beat.
    """

    voiced: float
    glide: float
    held: float
    modulation: float
    depth: float
    stability: float
    beat: float


def voice_features(frames: AudioFrames) -> VoiceFeatures | None:
    """The features of `frames`, a few seconds long; None if it is silent or shorter than 0.2 s."""
    level_db = 10 * np.log10(frames.power + 1e-14)
    active = level_db > max(np.quantile(level_db, 0.95) - ACTIVE_RANGE_DB, FAINTEST_DB)
    if active.sum() < 10:
        return None
    voiced = active & (frames.harmonicity > VOICED_HARMONICITY)
    semitones = 12 * np.log2(frames.pitch_hz)
    steps = np.abs(np.diff(semitones))[voiced[1:] & voiced[:-1]]
    glides = steps[steps < LONGEST_GLIDE]
    envelope = np.sqrt(frames.voice_power.astype(np.float64))
    envelope = envelope / (envelope.mean() + 1e-9) - 1
    return VoiceFeatures(
        voiced=float(voiced.sum() / active.sum()),
        glide=float(np.median(glides)) if len(glides) > 5 else 0.0,
        held=_held_frames(semitones, voiced) / max(1, int(voiced.sum())),
        modulation=_modulation(envelope, frames.hop_s),
        depth=float(envelope.std()),
        stability=float(frames.stability[active].mean()),
        beat=beat(frames).strength,
    )


def _held_frames(semitones: np.ndarray, voiced: np.ndarray) -> int:
    if len(voiced) < HELD_FRAMES:
        return 0
    windows = np.lib.stride_tricks.sliding_window_view(semitones, HELD_FRAMES)
    all_voiced = np.lib.stride_tricks.sliding_window_view(voiced, HELD_FRAMES).all(axis=1)
    return int((all_voiced & (np.ptp(windows, axis=1) < HELD_SPAN)).sum())


def _modulation(envelope: np.ndarray, hop_s: float) -> float:
    """Share of the envelope's power above 0.4 Hz that lies between 2.5 and 8 Hz, over windows of two seconds."""
    n = min(len(envelope), round(2.0 / hop_s))
    windows = np.lib.stride_tricks.sliding_window_view(envelope, n)[:: n // 2]
    power = (np.abs(np.fft.rfft(windows * np.hanning(n), axis=1)) ** 2).mean(axis=0)
    rate_hz = np.fft.rfftfreq(n, hop_s)
    syllables = (rate_hz >= SYLLABLE_RATE_HZ[0]) & (rate_hz <= SYLLABLE_RATE_HZ[1])
    return float(power[syllables].sum() / max(power[rate_hz > 0.4].sum(), 1e-12))
