"""How loud a sound is: LUFS, peaks, mean volume, clipping."""

import numpy as np

SILENCE_DB = -120.0  # reported for digital silence in place of minus infinity
ABSOLUTE_GATE_LUFS = -70.0
RELATIVE_GATE_LU = -10.0
OVERSAMPLING = 4
PEAK_BLOCK = 1024
PEAK_MARGIN = 12


def decibels(power: np.ndarray | float) -> np.ndarray:
    """10 log10, held at -120 dB."""
    return 10 * np.log10(np.maximum(power, 10 ** (SILENCE_DB / 10)))


def mean_volume_db(samples: np.ndarray) -> float:
    """Root mean square over all channels and samples, dBFS, as ffmpeg's volumedetect reports `mean_volume`."""
    return float(decibels(sum(float(np.dot(channel, channel)) for channel in samples) / max(1, samples.size)))


def sample_peak_db(samples: np.ndarray) -> float:
    """Highest absolute sample, dBFS."""
    return float(decibels(float(np.abs(samples).max(initial=0)) ** 2))


def true_peak_db(samples: np.ndarray) -> float:
    """Highest value between the samples too, dBTP, at four times the rate (ITU-R BS.1770-5 annex 2).

    Only stretches whose own peak is within 6 dB of the clip's are oversampled.
    """
    from scipy.signal import firwin, upfirdn  # half a second that a run, which measures in a child, need not spend

    peak = float(np.abs(samples).max(initial=0))
    taps = OVERSAMPLING * firwin(2 * OVERSAMPLING * PEAK_MARGIN + 1, 1 / OVERSAMPLING, window=("kaiser", 8.0))
    kept = OVERSAMPLING * np.array([2 * PEAK_MARGIN, 2 * PEAK_MARGIN + PEAK_BLOCK])  # past the filter's own delay
    for channel in samples if peak > 0 else ():
        padded = np.pad(channel, (PEAK_MARGIN, 2 * PEAK_MARGIN + PEAK_BLOCK)).astype(np.float32)
        stretches = np.lib.stride_tricks.sliding_window_view(padded, PEAK_BLOCK + 2 * PEAK_MARGIN)[::PEAK_BLOCK]
        loud = stretches[np.abs(stretches).max(axis=1) > 0.5 * np.abs(samples).max()]
        between = upfirdn(taps.astype(np.float32), loud, OVERSAMPLING, axis=1)[:, kept[0] : kept[1]]
        peak = max(peak, float(np.abs(between).max(initial=0)))
    return float(decibels(peak**2))


class KWeighting:
    """The two filters of BS.1770 (head shelf, RLB high pass) at any sample rate; remembers its state between calls."""

    def __init__(self, sample_rate: int, channels: int) -> None:
        self.sos = k_weighting_filters(sample_rate)
        self._weights = channel_weights(channels)
        self._state = np.zeros((len(self.sos), channels, 2))

    def power(self, samples: np.ndarray, block: int) -> np.ndarray:
        """Weighted mean square per block of samples, summed over channels: (C, m * block) -> (m,)."""
        from scipy.signal import sosfilt  # as above

        weighted, self._state = sosfilt(self.sos, samples, axis=1, zi=self._state)
        blocks = weighted.reshape(len(samples), -1, block)
        return np.einsum("c,cmi,cmi->m", self._weights, blocks, blocks).astype(np.float32) / block


def k_weighting_filters(sample_rate: int) -> np.ndarray:
    """(2, 6) second-order sections that equal the table of BS.1770 at 48 kHz and keep its curve at other rates.

    The analogue prototypes (corner, Q, gain) are those that reproduce the published 48 kHz coefficients
    (B. De Man, "Evaluation of implementations of the EBU R128 loudness measurement", AES 2018).
    """
    shelf_hz, shelf_q, shelf_db = 1681.974450955533, 0.7071752369554196, 3.999843853973347
    pass_hz, pass_q = 38.13547087602444, 0.5003270373238773
    high = 10 ** (shelf_db / 20)
    band = high**0.4996667741545416
    k = np.tan(np.pi * shelf_hz / sample_rate)
    shelf_a = np.array([1 + k / shelf_q + k * k, 2 * (k * k - 1), 1 - k / shelf_q + k * k])
    shelf_b = np.array([high + band * k / shelf_q + k * k, 2 * (k * k - high), high - band * k / shelf_q + k * k])
    k = np.tan(np.pi * pass_hz / sample_rate)
    pass_a = np.array([1 + k / pass_q + k * k, 2 * (k * k - 1), 1 - k / pass_q + k * k])
    return np.array(
        [[*(shelf_b / shelf_a[0]), *(shelf_a / shelf_a[0])], [1.0, -2.0, 1.0, *(pass_a / pass_a[0])]],
    )


def channel_weights(channels: int) -> np.ndarray:
    """BS.1770 weights: 1 for front channels; 5 channels end in two surrounds (1.41); 6 hold an unheard LFE fourth."""
    if channels == 5:
        return np.array([1, 1, 1, 1.41, 1.41])
    if channels == 6:
        return np.array([1, 1, 1, 0, 1.41, 1.41])
    return np.ones(channels)


def integrated_loudness(k_power: np.ndarray) -> float:
    """Gated loudness in LUFS (BS.1770-5) from K-weighted mean squares of 100 ms blocks.

    Gating blocks are 400 ms with 75 % overlap; a sound shorter than that is one block. -120 if all is gated away.
    """
    window = min(4, len(k_power))
    blocks = np.convolve(k_power.astype(np.float64), np.ones(window) / window, mode="valid")
    loud = blocks[_lufs(blocks) > ABSOLUTE_GATE_LUFS]
    if len(loud) == 0:
        return SILENCE_DB
    loud = loud[_lufs(loud) > _lufs(loud.mean()) + RELATIVE_GATE_LU]
    return float(_lufs(loud.mean()))


def loudness_range(k_power: np.ndarray) -> float:
    """LRA in LU (EBU Tech 3342): spread from the 10th to the 95th percentile of gated 3 s loudness."""
    window = min(30, len(k_power))
    short_term = np.convolve(k_power.astype(np.float64), np.ones(window) / window, mode="valid")
    loud = short_term[_lufs(short_term) > ABSOLUTE_GATE_LUFS]
    if len(loud) == 0:
        return 0.0
    loud = loud[_lufs(loud) > _lufs(loud.mean()) - 20]
    low, high = np.percentile(_lufs(loud), (10, 95))
    return float(high - low)


def _lufs(power: np.ndarray) -> np.ndarray:
    return -0.691 + decibels(power)
