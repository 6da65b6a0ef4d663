"""All scores of a clip's sound in one record."""

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from pipelines.curation.audio.bandwidth import bandwidth
from pipelines.curation.audio.classify import Label, classify
from pipelines.curation.audio.clipping import clipping_ratio
from pipelines.curation.audio.frames import AudioFrames, audio_frames
from pipelines.curation.audio.levels import (
    decibels,
    integrated_loudness,
    loudness_range,
    mean_volume_db,
    sample_peak_db,
    true_peak_db,
)
from pipelines.curation.audio.noise import snr_db
from pipelines.curation.audio.rhythm import beat, onset_times
from pipelines.curation.audio.vad import Interval, covered_ratio, dropout_s, silence_ratio, speech_intervals

ClassSource = Literal["measured", "model"]


class AudioScores(BaseModel):
    """What was measured in a clip's sound. None: not measured, or nothing to measure it on (silence has no SNR).

    Levels are dB relative to full scale, loudness LUFS (BS.1770), ratios 0 to 1, times seconds from the clip's start.
    `class_confidence` below about 0.5 means mixed sound. `beat_strength` below about 0.25: `tempo_bpm` means nothing.
    `mos` is a listener's rating, 1 to 5; only a model can tell.
    """

    model_config = ConfigDict(extra="forbid")

    duration_s: float
    sample_rate: int
    channels: int | None = None
    mean_volume_db: float
    peak_db: float
    true_peak_db: float | None = None
    loudness_lufs: float
    loudness_range_lu: float
    clipping_ratio: float | None = None
    snr_db: float | None
    bandwidth_hz: float
    bandwidth_cliff_db: float
    silence_ratio: float
    dropout_s: float
    speech_ratio: float
    sound_class: Label
    class_confidence: float
    class_scores: dict[str, float]
    class_source: ClassSource = "measured"
    tempo_bpm: float
    beat_strength: float
    mos: float | None = None
    speech: list[Interval]
    onsets_s: list[float]

    def flat(self) -> dict[str, float | int | str | None]:
        """Name -> value for manifests and filters; `sound_class` goes by `class`; lists are left out."""
        values = self.model_dump(exclude={"class_scores", "speech", "onsets_s", "sound_class"})
        values["class"] = self.sound_class
        values["onsets_per_s"] = len(self.onsets_s) / self.duration_s
        return values | {f"class_{name}": score for name, score in self.class_scores.items()}


def audio_scores(samples: np.ndarray, sample_rate: int) -> AudioScores:
    """Every score of a clip: samples (C, N) float in [-1, 1], at least 8 kHz."""
    scores = _scores(audio_frames(samples, sample_rate))
    return scores.model_copy(
        update={
            "duration_s": samples.shape[1] / sample_rate,
            "channels": samples.shape[0],
            "mean_volume_db": mean_volume_db(samples),
            "peak_db": sample_peak_db(samples),
            "true_peak_db": true_peak_db(samples),
            "clipping_ratio": clipping_ratio(samples),
        }
    )


def scores_for_span(frames: AudioFrames, start_s: float, end_s: float) -> AudioScores:
    """The scores of a span of an analysed source, on 100 ms blocks; what needs its samples stays None.

    Missing are `channels`, `true_peak_db` and `clipping_ratio`: `audio_scores` of the cut clip has them.
    """
    span = frames.span(start_s, end_s)
    if len(span.power) == 0:
        ends_s = frames.start_s + frames.duration_s
        raise ValueError(f"no sound in [{start_s:.2f}, {end_s:.2f}) s: it ends at {ends_s:.2f} s; check before scoring")
    at_zero = AudioFrames(**{**vars(span), "start_s": 0.0})
    return _scores(at_zero)


def _scores(frames: AudioFrames) -> AudioScores:
    kind, rhythm, width, speech = classify(frames), beat(frames), bandwidth(frames), speech_intervals(frames)
    return AudioScores(
        duration_s=frames.duration_s,
        sample_rate=frames.sample_rate,
        mean_volume_db=float(decibels(frames.mean_square.mean())),
        peak_db=float(decibels(float(frames.peak.max()) ** 2)),
        loudness_lufs=integrated_loudness(frames.k_power),
        loudness_range_lu=loudness_range(frames.k_power),
        snr_db=snr_db(frames),
        bandwidth_hz=width.effective_hz,
        bandwidth_cliff_db=width.cliff_db,
        silence_ratio=silence_ratio(frames),
        dropout_s=dropout_s(frames),
        speech_ratio=covered_ratio(speech, frames.duration_s),
        sound_class=kind.label,
        class_confidence=kind.confidence,
        class_scores=kind.scores,
        tempo_bpm=rhythm.tempo_bpm,
        beat_strength=rhythm.strength,
        speech=speech,
        onsets_s=onset_times(frames),
    )
