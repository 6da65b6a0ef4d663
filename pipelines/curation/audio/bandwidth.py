"""How high a sound really reaches, whatever its sample rate claims."""

from dataclasses import dataclass

import numpy as np

from pipelines.curation.audio.frames import AudioFrames
from pipelines.curation.audio.spectra import BAND_HZ

PRESENT_QUANTILE = 0.95  # a band counts if it is there in the loudest 5 % of the blocks
RANGE_DB = 60.0  # below the strongest band: beneath the images that plain resamplers leave
CLIFF_BANDS = 3


@dataclass(frozen=True)
class Bandwidth:
    """`effective_hz`: the top of the highest band that is persistently there (0 for silence).

    `cliff_db`: how far the level falls within 750 Hz above it; a resampler or a codec falls by 30 dB and more, nature
    fades. 0 when the sound reaches the Nyquist frequency.
    """

    effective_hz: float
    cliff_db: float


def bandwidth(frames: AudioFrames) -> Bandwidth:
    """Effective bandwidth from the 250 Hz bands that the loudest blocks reach."""
    level_db = np.quantile(frames.band_db.astype(np.float32), PRESENT_QUANTILE, axis=0)
    strongest = level_db.max()
    if strongest < -110:
        return Bandwidth(0.0, 0.0)
    present = level_db > max(strongest - RANGE_DB, -110.0)
    top = int(np.flatnonzero(present)[-1])
    nyquist = frames.sample_rate / 2
    above = level_db[top + 1 :]
    cliff = level_db[max(0, top - CLIFF_BANDS) : top + 1].max() - above[:CLIFF_BANDS].min() if len(above) else 0.0
    return Bandwidth(min((top + 1) * BAND_HZ, nyquist), float(cliff))
