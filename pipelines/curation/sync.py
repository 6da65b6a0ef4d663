"""What is asked of the sync of picture and sound before a clip is kept."""

from dataclasses import dataclass

from skyreels.media.sync import SyncScores


@dataclass(frozen=True)
class SyncGate:
    """What a clip with speech or singing must meet; the paper asks for 3 frames, 1.5 and -60 dB."""

    max_offset_frames: float
    min_confidence: float
    min_mean_volume_db: float


def passes(gate: SyncGate, scores: SyncScores | None, mean_volume_db: float) -> bool:
    """Whether measured sync and volume meet the gate; what could not be measured does not."""
    return (
        scores is not None
        and abs(scores.offset_frames) <= gate.max_offset_frames
        and scores.confidence > gate.min_confidence
        and mean_volume_db >= gate.min_mean_volume_db
    )
