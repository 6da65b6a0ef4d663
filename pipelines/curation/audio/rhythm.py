"""Onsets, beat and tempo, from the onset track."""

from dataclasses import dataclass

import numpy as np

from pipelines.curation.audio.frames import AudioFrames

TEMPO_RANGE_BPM = (50.0, 200.0)
PREFERRED_BPM = 120.0
SHORTEST_BEAT_S = 3.0  # a shorter sound repeats nothing often enough
ONSET_RISE_DB = 3.0  # mean rise over bands within 30 ms
ONSET_APART_S = 0.08
NEIGHBOURHOOD_S = 0.5
EDGE_S = 0.05  # where a clip was cut out of a sound, the onset track jumps


@dataclass(frozen=True)
class Beat:
    """`strength`: height of the onset autocorrelation at the beat, 0 to 1; below ~0.25 the tempo means nothing."""

    tempo_bpm: float
    strength: float


def onset_times(frames: AudioFrames) -> list[float]:
    """Starts of sudden sounds, seconds on the source's clock, to about 10 ms."""
    rise = np.convolve(frames.onset, np.ones(3), mode="same")
    apart = round(ONSET_APART_S / frames.onset_hop_s)
    around = round(NEIGHBOURHOOD_S / frames.onset_hop_s)
    padded = np.pad(rise, apart)
    highest = np.lib.stride_tricks.sliding_window_view(padded, 2 * apart + 1).max(axis=1)
    usual = np.convolve(rise, np.ones(2 * around + 1) / (2 * around + 1), mode="full")[around : around + len(rise)]
    peaks = np.flatnonzero((rise == highest) & (rise > np.maximum(ONSET_RISE_DB, 2 * usual)))
    edge = round(EDGE_S / frames.onset_hop_s)
    peaks = peaks[(peaks >= edge) & (peaks < len(rise) - edge)]
    kept = peaks[np.diff(peaks, prepend=-apart - 1) > apart]
    return [float(frames.start_s + at * frames.onset_hop_s) for at in kept]


def beat(frames: AudioFrames) -> Beat:
    """Tempo and how regular it is, from the autocorrelation of the onset track with a gentle pull towards 120 bpm."""
    track = frames.onset.astype(np.float64) - frames.onset.mean()
    n = len(track)
    lags = np.arange(round(60 / TEMPO_RANGE_BPM[1] / frames.onset_hop_s), n // 2)
    lags = lags[lags <= 60 / TEMPO_RANGE_BPM[0] / frames.onset_hop_s]
    if n * frames.onset_hop_s < SHORTEST_BEAT_S or not track.any():
        return Beat(0.0, 0.0)
    spectrum = np.fft.rfft(track, 2 * n)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[:n]
    correlation *= n / (correlation[0] * (n - np.arange(n)))
    bpm = 60 / (lags * frames.onset_hop_s)
    best = int(np.argmax(correlation[lags] * np.exp(-0.5 * (np.log2(bpm / PREFERRED_BPM) / 1.0) ** 2)))
    return Beat(float(bpm[best]), float(np.clip(correlation[lags[best]], 0, 1)))
