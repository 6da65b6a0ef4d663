"""How much of a sound was cut off at full scale, also when it was turned down or re-encoded afterwards."""

import numpy as np

LEVELS = (0.98, 0.94, 0.88, 0.8)  # of the clip's peak: a lossy codec rings above the old plateau
MIN_RUN = 3
FLATTER_THAN_SMOOTH = 2.5


def clipping_ratio(samples: np.ndarray) -> float:
    """Share of samples (C, N) that sit on a clipped plateau, 0 to 1.

    A plateau is a run of three or more samples near the channel's peak that the waveform enters and leaves too steeply
    for so flat a top: steeper than 2.5 times what a parabola of that height and length would be entered at.
    """
    if samples.size == 0:
        return 0.0
    return max(sum(_plateau_samples(channel, level) for channel in samples) for level in LEVELS) / samples.size


def _plateau_samples(channel: np.ndarray, level: float) -> int:
    peak = float(np.abs(channel).max(initial=0))
    if peak == 0:
        return 0
    threshold = np.float32(level * peak)
    return sum(_flat_run_samples(side, threshold) for side in (channel, -channel))


def _flat_run_samples(wave: np.ndarray, threshold: np.float32) -> int:
    """Samples in flat-topped runs of `wave` above `threshold`."""
    high = np.flatnonzero(wave > threshold)
    if len(high) < MIN_RUN:
        return 0
    breaks = np.flatnonzero(np.diff(high) > 1)
    starts, ends = high[np.append(0, breaks + 1)], high[np.append(breaks, len(high) - 1)]
    whole = (ends - starts + 1 >= MIN_RUN) & (starts >= 2) & (ends < len(wave) - 2)
    starts, ends = starts[whole], ends[whole]
    if len(starts) == 0:
        return 0
    bounds = np.stack([starts, ends + 1], axis=1).ravel()
    tops = np.maximum.reduceat(wave, bounds)[::2]
    lengths = ends - starts + 1
    slopes = (wave[starts] - wave[starts - 2] + wave[ends] - wave[ends + 2]) / 4
    heights = tops - np.minimum(wave[starts], wave[ends])
    half = (lengths - 1) / 2
    smooth_slopes = heights * (2 * half + 2) / half**2  # of a (x / half)^2 over the two samples outside the run
    flat = slopes > FLATTER_THAN_SMOOTH * smooth_slopes
    return int(lengths[flat].sum())
