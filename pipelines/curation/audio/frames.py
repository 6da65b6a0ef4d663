"""Short-time features of sound, computed in one streaming pass and shared by every score.

Two hours of sound fit in about 40 MB of features, so a long source is analysed once, and any span of it can be
scored afterwards without its samples.
"""

from dataclasses import dataclass, fields

import numpy as np

from pipelines.curation.audio.levels import KWeighting
from pipelines.curation.audio.spectra import FRAMES_PER_BLOCK, ONSETS_PER_FRAME, SpectralTracks

ANALYSIS_BLOCK_S = 10.0


@dataclass(frozen=True)
class AudioFrames:
    """Feature tracks of one sound. m blocks of 100 ms, n = 5m frames, B bands of 250 Hz.

    Frame i is centred on `start_s + i * hop_s`; block j covers `[5j, 5j + 5)` hops.

    power: (n,) mean square of the mono mix; voice_power: (n,) the same, 300-3400 Hz only
    pitch_hz: (n,) period of the strongest autocorrelation peak; harmonicity: (n,) height of that peak, 0 to 1
    stability: (n,) cosine likeness of the fine spectrum to that 80 ms before: held notes near 1, speech and noise low
    onset: (2n,) spectral flux, dB per band per 10 ms, rising parts only
    band_db, valley_db: (m, B) float16, power of each band and its geometric mean over bins, dB of mean square
    k_power: (m,) K-weighted mean square summed over channels (BS.1770); mean_square, peak: (m,) over all channels
    """

    sample_rate: int
    start_s: float
    hop_s: float
    power: np.ndarray
    voice_power: np.ndarray
    pitch_hz: np.ndarray
    harmonicity: np.ndarray
    stability: np.ndarray
    onset: np.ndarray
    band_db: np.ndarray
    valley_db: np.ndarray
    k_power: np.ndarray
    mean_square: np.ndarray
    peak: np.ndarray

    @property
    def duration_s(self) -> float:
        return len(self.power) * self.hop_s

    @property
    def onset_hop_s(self) -> float:
        return self.hop_s / ONSETS_PER_FRAME

    @property
    def onset_times_s(self) -> np.ndarray:
        """(2n,) the moments of the onset track on the source's clock."""
        return self.start_s + np.arange(len(self.onset)) * self.onset_hop_s

    @property
    def block_s(self) -> float:
        return self.hop_s * FRAMES_PER_BLOCK

    def span(self, start_s: float, end_s: float) -> "AudioFrames":
        """The tracks of `[start_s, end_s)` on the source's clock, on 100 ms blocks; empty past the sound's end."""
        if end_s <= start_s:
            raise ValueError(f"audio span [{start_s}, {end_s}) is empty: give start_s < end_s")
        first = max(0, round((start_s - self.start_s) / self.block_s))
        last = max(first + 1, round((end_s - self.start_s) / self.block_s))
        per_value = {"onset": FRAMES_PER_BLOCK * ONSETS_PER_FRAME} | dict.fromkeys(BLOCK_TRACKS, 1)
        cut = {
            name: getattr(self, name)[first * per_value.get(name, FRAMES_PER_BLOCK) :][
                : (last - first) * per_value.get(name, FRAMES_PER_BLOCK)
            ]
            for name in TRACKS
        }
        return AudioFrames(self.sample_rate, self.start_s + first * self.block_s, self.hop_s, **cut)


TRACKS = tuple(field.name for field in fields(AudioFrames))[3:]
BLOCK_TRACKS = ("band_db", "valley_db", "k_power", "mean_square", "peak")


def audio_frames(samples: np.ndarray, sample_rate: int, start_s: float = 0.0) -> AudioFrames:
    """The feature tracks of a whole clip: samples (C, N) in [-1, 1]."""
    timeline = AudioTimeline(sample_rate, start_s)
    timeline.update(samples)
    return timeline.finish()


class AudioTimeline:
    """Gathers feature tracks from blocks of samples of any size; memory grows by ~5 KB a second, not by samples.

    >>> timeline = AudioTimeline(sample_rate=44100)
    >>> for block in blocks: timeline.update(block)      # (C, N) each
    >>> frames = timeline.finish()
    """

    def __init__(self, sample_rate: int, start_s: float = 0.0) -> None:
        self._spectra = SpectralTracks(sample_rate)
        self._start_s = start_s
        self._weighting: KWeighting | None = None
        self._waiting: list[np.ndarray] = []  # from half a window before the next frame's centre on
        self._gathered: dict[str, list[np.ndarray]] = {name: [] for name in TRACKS}

    def update(self, samples: np.ndarray) -> None:
        """Take the next samples (C, N); the number of channels must not change."""
        samples = np.asarray(samples, dtype=np.float32)
        if samples.ndim != 2 or samples.shape[0] == 0:
            raise ValueError(f"audio samples must be (channels, samples), got shape {samples.shape}")
        if not np.isfinite(samples).all():
            raise ValueError("audio samples hold NaN or infinity: the decoder returned damaged sound")
        if self._weighting is None:
            self._waiting.append(np.zeros((samples.shape[0], self._spectra.half), np.float32))
            self._weighting = KWeighting(self._spectra.sample_rate, samples.shape[0])
        elif self._waiting[-1].shape[0] != samples.shape[0]:
            raise ValueError(
                f"audio went from {self._waiting[-1].shape[0]} to {samples.shape[0]} channels in one source"
            )
        step = round(ANALYSIS_BLOCK_S * self._spectra.sample_rate)
        for first in range(0, samples.shape[1], step):
            self._waiting.append(samples[:, first : first + step])
            waiting = sum(part.shape[1] for part in self._waiting)
            if waiting >= step:
                self._analyse((waiting - 2 * self._spectra.half) // self._spectra.block)

    def finish(self) -> AudioFrames:
        """Analyse what is left and return the tracks; a last part of less than 100 ms is left out."""
        spectra = self._spectra
        if self._weighting is None:
            raise ValueError("no sound to analyse: the audio stream gave no samples")
        left = sum(part.shape[1] for part in self._waiting) - spectra.half
        n_blocks = left // spectra.block
        if not self._gathered["power"]:
            n_blocks = max(n_blocks, 1)
        self._waiting.append(np.zeros((self._waiting[-1].shape[0], spectra.half + spectra.block), np.float32))
        self._analyse(n_blocks)
        tracks = {name: np.concatenate(parts) for name, parts in self._gathered.items()}
        return AudioFrames(spectra.sample_rate, self._start_s, spectra.hop / spectra.sample_rate, **tracks)

    def _analyse(self, n_blocks: int) -> None:
        if n_blocks <= 0:
            return
        assert self._weighting is not None
        spectra, sound = self._spectra, np.concatenate(self._waiting, axis=1)
        tracks = spectra.analyse(sound.mean(axis=0), n_blocks)
        channels, n = sound.shape[0], n_blocks * spectra.block
        blocks = sound[:, spectra.half : spectra.half + n].reshape(channels, n_blocks, spectra.block)
        tracks["k_power"] = self._weighting.power(blocks.reshape(channels, n), spectra.block)
        tracks["mean_square"] = np.einsum("cmi,cmi->m", blocks, blocks) / (channels * spectra.block)
        tracks["peak"] = np.maximum(blocks.max(axis=(0, 2)), -blocks.min(axis=(0, 2)))
        for name, values in tracks.items():
            self._gathered[name].append(values)
        self._waiting = [sound[:, n:].copy()]
