"""The spectral tracks of `AudioFrames`: two short-time Fourier transforms per stretch of mono sound."""

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft
from scipy.ndimage import uniform_filter1d

HOP_S = 0.02  # base tracks: 50 frames a second
WINDOW_S = 0.046  # three periods of the lowest voice; 22 Hz resolution
ONSET_WINDOW_S = 0.023
ONSETS_PER_FRAME = 2  # the onset track: 100 values a second
FRAMES_PER_BLOCK = 5  # the block tracks: 10 values a second
BAND_HZ = 250.0
PITCH_RANGE_HZ = (70.0, 1000.0)
PITCH_BAND_HZ = 5500.0
VOICE_BAND_HZ = (300.0, 3400.0)
STABILITY_LAG = 4  # frames; 80 ms, so that the two windows share no sample
STABILITY_BAND_HZ = (80.0, 4000.0)
ONSET_FLOOR = np.float32(1e-7)  # -70 dBFS per band: hides what flickers below, such as codec noise
SILENT_POWER = 1e-9  # mean square of -90 dBFS: below it pitch means nothing
_FLOOR = np.float32(1e-14)  # -140 dB, stands for digital silence


class SpectralTracks:
    """Turns successive stretches of mono sound into spectral tracks; holds the few frames that stretches share."""

    def __init__(self, sample_rate: int) -> None:
        if sample_rate < 8000:
            raise ValueError(f"sample rate {sample_rate} Hz is below 8000 Hz: resample the sound before scoring it")
        self.sample_rate = sample_rate
        self.hop = ONSETS_PER_FRAME * round(HOP_S * sample_rate / ONSETS_PER_FRAME)
        self.block = self.hop * FRAMES_PER_BLOCK
        self.half = next_fast_len(round(WINDOW_S * sample_rate / 2), real=True)
        self._window = _hann(2 * self.half)
        self._block_window = _hann(self.block + 2 * self.half)  # 7 Hz resolution: partials of a low chord stand apart
        self._onset_window = _hann(2 * round(ONSET_WINDOW_S * sample_rate / 2))
        bins = np.arange(self.half + 1) * sample_rate / (2 * self.half)
        self._band_starts = _band_starts(bins)
        self._block_band_starts = _band_starts(np.fft.rfftfreq(len(self._block_window), 1 / sample_rate))
        self._onset_starts = _band_starts(np.fft.rfftfreq(len(self._onset_window), 1 / sample_rate))
        self._voice, self._fine = (
            slice(*np.searchsorted(bins, limits)) for limits in (VOICE_BAND_HZ, STABILITY_BAND_HZ)
        )
        self._pitch_bins = next_fast_len(int(np.searchsorted(bins, PITCH_BAND_HZ)), real=True)
        self._fine_before = np.zeros((STABILITY_LAG, self._fine.stop - self._fine.start), np.float32)
        self._onset_before: np.ndarray | None = None

    def analyse(self, mono: np.ndarray, n_blocks: int) -> dict[str, np.ndarray]:
        """Tracks of the frames centred on samples `half + i * hop` of `mono`, for `5 * n_blocks` values of i."""
        power = self._power_spectra(mono, self._window, n_blocks * FRAMES_PER_BLOCK, self.hop)
        log_power = np.log(power + _FLOOR)
        level = power.sum(axis=1)
        pitch_hz, harmonicity = self._pitch(power)
        return {
            "power": level,
            "voice_power": power[:, self._voice].sum(axis=1),
            "pitch_hz": pitch_hz,
            "harmonicity": np.where(level > SILENT_POWER, harmonicity, 0).astype(np.float32),
            "stability": np.where(level > SILENT_POWER, self._stability(log_power), 0).astype(np.float32),
            "onset": self._onsets(mono, n_blocks * FRAMES_PER_BLOCK * ONSETS_PER_FRAME),
        } | self._bands(power, log_power, self._valleys(mono, n_blocks))

    def _power_spectra(self, mono: np.ndarray, window: np.ndarray, n: int, hop: int) -> np.ndarray:
        """(n, bins) one-sided power, scaled so that the bins of a frame add up to its mean square."""
        first = max(0, self.half - len(window) // 2)
        frames = np.lib.stride_tricks.sliding_window_view(mono[first:], len(window))[: n * hop : hop]
        spectra = rfft(frames * window, axis=1)
        power = spectra.real**2 + spectra.imag**2
        power *= np.float32(2 / (len(window) * (window.astype(np.float64) ** 2).sum()))
        power[:, 0] /= 2
        return power

    def _valleys(self, mono: np.ndarray, n_blocks: int) -> np.ndarray:
        """(n_blocks, bands) geometric mean of each band's bins in one spectrum of the whole block, natural log."""
        log_power = np.log(self._power_spectra(mono, self._block_window, n_blocks, self.block) + _FLOOR)
        return _log_valleys(log_power, self._block_band_starts)

    def _bands(self, power: np.ndarray, log_power: np.ndarray, valleys: np.ndarray) -> dict[str, np.ndarray]:
        """Power per 250 Hz band and the geometric mean of its bins (times their number), per 100 ms, in dB.

        The mean is the lower of two: over short frames for what pauses or glides, over the block for what is held.
        """
        starts, n_blocks = self._band_starts, len(valleys)
        blocks = power.reshape(n_blocks, FRAMES_PER_BLOCK, -1).mean(axis=1)
        log_blocks = log_power.reshape(n_blocks, FRAMES_PER_BLOCK, -1).mean(axis=1)
        band_db = 10 * np.log10(np.add.reduceat(blocks, starts, axis=1) + _FLOOR)
        valley_db = 10 / np.log(10) * np.minimum(_log_valleys(log_blocks, starts), valleys)
        return {"band_db": band_db.astype(np.float16), "valley_db": valley_db.astype(np.float16)}

    def _pitch(self, power: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fundamental in Hz and height of the autocorrelation peak, from the spectrum below 5.5 kHz.

        The peak is divided by the window's own autocorrelation (Boersma 1993), and among peaks nearly as high as
        the highest the shortest lag wins, so that a tone is not heard an octave too low.
        """
        n = 4 * (self._pitch_bins - 1)  # twice as fine as the bins ask for, so that short lags have clear peaks
        rate = n * self.sample_rate / (2 * self.half)
        shortest, longest = int(rate / PITCH_RANGE_HZ[1]), int(rate / PITCH_RANGE_HZ[0]) + 1
        correlation = irfft(power[:, : self._pitch_bins], n=n, axis=1)[:, : longest + 1]
        correlation /= correlation[:, :1] + _FLOOR
        lags = np.arange(longest + 1)
        correlation /= np.interp(
            lags / rate * self.sample_rate, np.arange(self.half), _overlap(self._window)[: self.half]
        )
        inner = correlation[:, shortest:longest]
        is_peak = (inner >= correlation[:, shortest - 1 : longest - 1]) & (
            inner > correlation[:, shortest + 1 : longest + 1]
        )
        heights = np.where(is_peak, inner, 0)
        lag = shortest + np.argmax(heights >= 0.9 * heights.max(axis=1, keepdims=True), axis=1)
        rows = np.arange(len(lag))
        before, at, after = (correlation[rows, lag + step] for step in (-1, 0, 1))
        bend = np.minimum(before - 2 * at + after, -_FLOOR)
        shift = np.clip((before - after) / (2 * bend), -0.5, 0.5)
        harmonicity = np.where(is_peak.any(axis=1), np.clip(at - 0.25 * (before - after) * shift, 0, 1), 0)
        return (rate / (lag + shift)).astype(np.float32), harmonicity.astype(np.float32)

    def _stability(self, log_power: np.ndarray) -> np.ndarray:
        """Cosine between the fine structure (log spectrum less its smooth envelope) of frames 80 ms apart."""
        fine = log_power[:, self._fine]
        fine = fine - uniform_filter1d(fine, 15, axis=1, mode="nearest")
        fine /= np.sqrt((fine**2).sum(axis=1, keepdims=True)) + _FLOOR
        joined = np.concatenate([self._fine_before, fine])
        self._fine_before = joined[-STABILITY_LAG:]
        return np.einsum("nk,nk->n", joined[STABILITY_LAG:], joined[:-STABILITY_LAG])

    def _onsets(self, mono: np.ndarray, n: int) -> np.ndarray:
        """(n,) mean over bands of the rise in level since 10 ms before, dB."""
        power = self._power_spectra(mono, self._onset_window, n, self.hop // ONSETS_PER_FRAME)
        bands = np.add.reduceat(power, self._onset_starts, axis=1)
        level_db = 10 * np.log10(bands + ONSET_FLOOR)
        if self._onset_before is None:
            self._onset_before = level_db[:1]
        joined = np.concatenate([self._onset_before, level_db])
        self._onset_before = joined[-1:]
        return np.maximum(np.diff(joined, axis=0), 0).mean(axis=1)


def _log_valleys(log_power: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(n, bins) -> (n, bands): log of the geometric mean times the number of bins."""
    widths = np.diff(np.append(starts, log_power.shape[1])).astype(np.float32)
    return np.add.reduceat(log_power, starts, axis=1) / widths + np.log(widths)


def _hann(length: int) -> np.ndarray:
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)).astype(np.float32)


def _overlap(window: np.ndarray) -> np.ndarray:
    """Autocorrelation of the window, 1 at lag 0."""
    padded = np.fft.rfft(window.astype(np.float64), 2 * len(window))
    correlation = np.fft.irfft(np.abs(padded) ** 2)
    return correlation / correlation[0]


def _band_starts(bins_hz: np.ndarray) -> np.ndarray:
    """Index of the first bin of each 250 Hz band."""
    return np.searchsorted(bins_hz, np.arange(0, bins_hz[-1], BAND_HZ))
