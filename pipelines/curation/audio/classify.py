"""Speech, music, singing or sound effect, measured from the signal."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipelines.curation.audio.frames import AudioFrames
from pipelines.curation.audio.vad import SILENCE_DBFS
from pipelines.curation.audio.voice import VoiceFeatures, voice_features

Label = Literal["speech", "music", "singing", "sound_effect", "silence"]
LABELS: tuple[Label, ...] = ("speech", "music", "singing", "sound_effect")

WINDOW_S = 6.0  # long enough to hear a beat
STEP_S = 3.0
UNDECIDED = 0.35  # evidence at which a sound is as likely an effect as what the evidence is for


@dataclass(frozen=True)
class SoundClass:
    """A label, its share of the belief (0 to 1; below ~0.5 the sound is mixed) and the belief in each class."""

    label: Label
    confidence: float
    scores: dict[str, float]


@dataclass(frozen=True)
class ClassSegment:
    """A stretch of one class, seconds on the source's clock."""

    start_s: float
    end_s: float
    label: Label
    confidence: float


def classify(frames: AudioFrames) -> SoundClass:
    """The class of a clip: belief averaged over windows of 6 s, louder windows counting more."""
    beliefs, weights = [], []
    for start, end in _windows(frames):
        window = frames.span(start, end)
        beliefs.append(_beliefs(voice_features(window)))
        weights.append(float(np.sqrt(window.power.mean())) * len(window.power))
    return _decide(np.average(beliefs, axis=0, weights=weights) if sum(weights) > 0 else np.zeros(len(LABELS)), frames)


def class_segments(frames: AudioFrames) -> list[ClassSegment]:
    """Cut a long sound where its class changes, to the nearest 3 s step; neighbours of one class are joined."""
    windows = [frames.span(start, end) for start, end in _windows(frames)]
    found = [_decide(_beliefs(voice_features(window)), window) for window in windows]
    segments: list[ClassSegment] = []
    for window, kind in zip(windows, found, strict=True):
        end = window.start_s + window.duration_s
        if segments and segments[-1].label == kind.label:
            last = segments.pop()
            confidence = (last.confidence + kind.confidence) / 2
            segments.append(ClassSegment(last.start_s, end, kind.label, confidence))
            continue
        start = window.start_s
        if segments and segments[-1].end_s > start:  # the overlap of two windows is shared out
            last = segments.pop()
            start = (start + last.end_s) / 2
            segments.append(ClassSegment(last.start_s, start, last.label, last.confidence))
        segments.append(ClassSegment(start, end, kind.label, kind.confidence))
    return segments


def _windows(frames: AudioFrames) -> list[tuple[float, float]]:
    start, end = frames.start_s, frames.start_s + frames.duration_s
    steps = max(0, round((frames.duration_s - WINDOW_S) / STEP_S))
    firsts = [start + STEP_S * k for k in range(steps + 1)]
    return [(first, end if first == firsts[-1] else first + WINDOW_S) for first in firsts]


def _decide(beliefs: np.ndarray, frames: AudioFrames) -> SoundClass:
    scores: dict[str, float] = dict(zip(LABELS, map(float, beliefs), strict=True))
    loudest_db = 10 * np.log10(float(frames.mean_square.max()) + 1e-14)
    if loudest_db < SILENCE_DBFS or not any(scores.values()):
        return SoundClass("silence", 1.0, dict.fromkeys(LABELS, 0.0))
    label = max(LABELS, key=scores.__getitem__)
    return SoundClass(label, scores[label], scores)


def _beliefs(features: VoiceFeatures | None) -> np.ndarray:
    """Evidence per class (the least of its soft thresholds), as shares of one; zeros for silence."""
    if features is None:
        return np.zeros(len(LABELS))
    f = features
    syllables = f.modulation * min(f.depth, 1.0)
    intoned = min(
        _above(f.glide, 0.17, 0.03),
        _above(f.voiced, 0.35, 0.08),
        _above(f.modulation, 0.28, 0.05),
        _above(f.depth, 0.55, 0.1),
        _below(f.stability, 0.4, 0.06),
        _below(f.beat, 0.35, 0.05),
    )
    monotone = min(  # a flat voice: what gives it away is the strength of its syllables
        _above(f.glide, 0.012, 0.003),
        _above(f.voiced, 0.6, 0.08),
        _above(syllables, 0.42, 0.04),
        _below(f.stability, 0.52, 0.03),
        _below(f.beat, 0.28, 0.03),
    )
    speech = max(intoned, monotone)
    singing = min(
        _above(f.voiced, 0.6, 0.08),
        _above(f.held, 0.33, 0.06),
        _above(f.glide, 0.05, 0.01),
        _below(f.glide, 0.2, 0.03),
        _below(syllables, 0.32, 0.04),
        _below(f.depth, 2.0, 0.15),
    )
    tonal = min(_above(f.stability, 0.35, 0.06), _below(f.glide, 0.22, 0.03), _below(f.depth, 1.6, 0.2))
    slack_beat = min(_above(f.beat, 0.27, 0.04), _below(f.glide, 0.22, 0.03), _below(f.depth, 1.6, 0.2))
    music = max(tonal, slack_beat, _above(f.beat, 0.45, 0.05))
    if not f.beat:  # too short for a beat: a single bell is an effect
        music = min(music, UNDECIDED - 0.05)
    evidence = np.array([speech, music * (1 - max(singing, monotone)), singing, UNDECIDED])
    return evidence / evidence.sum()


def _above(value: float, middle: float, width: float) -> float:
    return float(1 / (1 + np.exp(-np.clip((value - middle) / width, -30, 30))))


def _below(value: float, middle: float, width: float) -> float:
    return 1 - _above(value, middle, width)
