"""How much steady noise lies under a sound, from the valleys of its spectrum (minimum statistics)."""

import numpy as np

from pipelines.curation.audio.frames import AudioFrames

FLOOR_QUANTILE = 0.05
FLOOR_BIAS_DB = 4.5  # how far the floor below lies under the true power of Gaussian noise
SOUNDING_DB = -90.0  # blocks below this hold digital silence or dither, no recorded background
SNR_RANGE_DB = (-10.0, 80.0)


def snr_db(frames: AudioFrames) -> float | None:
    """Signal over steady noise in dB, -10 to 80; None if the clip is silent.

    The noise in a 250 Hz band is taken as the 5th percentile over time of the geometric mean of its bins: low in the
    pauses of speech, and low between the partials of a held chord, a deep one too, but not below a hiss. Pauses of
    digital silence are left out, so that gated noise is still found. Broad sounds that never pause (rain, applause)
    count as noise.
    """
    level_db = 10 * np.log10(frames.mean_square + 1e-14)
    sounding = level_db > SOUNDING_DB
    if not sounding.any():
        return None
    power = 10 ** (frames.band_db[sounding].astype(np.float64) / 10)
    floor_db = np.quantile(frames.valley_db[sounding].astype(np.float64), FLOOR_QUANTILE, axis=0) + FLOOR_BIAS_DB
    noise = np.minimum(10 ** (floor_db / 10), power.mean(axis=0)).sum()
    signal = max(power.mean(axis=0).sum() - noise, 1e-14)
    return float(np.clip(10 * np.log10(signal / noise), *SNR_RANGE_DB))
