"""What the sandboxed child does with one source before it is cut: probe, prefilter, one decode, segments, scores.

Requests and replies are plain JSON. Sampled frames are left in the scratch folder as `<key>.f<i>.jpg`.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.curation.audio.chunks import chunk_spans
from pipelines.curation.audio.classify import class_segments
from pipelines.curation.audio.frames import AudioFrames, AudioTimeline
from pipelines.curation.audio.scores import scores_for_span
from pipelines.curation.audio.vad import active_intervals, speech_intervals
from pipelines.curation.filters import first_broken
from pipelines.curation.pool.segments import SegmentLimits, Uncovered, held_pictures, on_pictures, segment
from pipelines.curation.recipe import ExtractConfig
from pipelines.curation.records import Clip, Kind, Rejection, clip_key
from pipelines.curation.visual.decode_pass import DecodePassConfig, run_decode_pass
from pipelines.curation.visual.learned_shots import load_detector
from pipelines.curation.visual.prefilter import prefilter_scores
from pipelines.curation.visual.scores import clip_crop, clip_hashes, clip_scores, measure_image
from pipelines.curation.visual.timeline import SampledFrame, Timeline
from skyreels.media.facts import Probe
from skyreels.media.image import read_image
from skyreels.media.limits import MediaLimits
from skyreels.media.probe import probe
from skyreels.media.report import DecodeReport
from skyreels.media.sound import iter_audio
from skyreels.media.sync import measure_sync

cv2.setNumThreads(1)  # there is a child per worker: more threads would only fight each other

Request = dict[str, Any]
Span = tuple[float, float, str]  # start_s, end_s, what or why
_SHORTEST_SOUND_S = 0.1
_PADDING_S = 0.1
_EXACT_S = 1e-6


@dataclass
class SourceTask:
    """One source as the child sees it."""

    path: Path
    source_id: str
    kind: Kind
    probe: Probe
    extract: ExtractConfig
    limits: MediaLimits
    scratch: Path
    timings: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the block's CPU seconds to `timings[stage]`."""
        started = time.process_time()
        try:
            yield
        finally:
            self.timings[stage] = self.timings.get(stage, 0.0) + time.process_time() - started


def probe_source(request: Request, scratch: Path) -> dict[str, Any]:
    """What the file is, by its bytes: the probe, its kind and its length in seconds."""
    found = probe(request["path"], MediaLimits(**request["limits"]))
    kind = Kind.IMAGE if found.image else Kind.VIDEO if found.video else Kind.AUDIO
    seconds = 0.0 if kind is Kind.IMAGE else found.duration_s
    return {"probe": found.model_dump(mode="json"), "kind": kind.value, "seconds": seconds}


def measure_source(request: Request, scratch: Path) -> dict[str, Any]:
    """Everything that is known of a source before it is cut."""
    task = task_of(request, scratch)
    by_kind = {Kind.VIDEO: _measure_video, Kind.IMAGE: _measure_image, Kind.AUDIO: _measure_audio}
    return told(task, by_kind[task.kind](task))


def told(task: SourceTask, found: "Measured") -> dict[str, Any]:
    """As the child replies."""
    return {
        "rejection": found.rejection and found.rejection.model_dump(),
        "clips": [clip.model_dump(mode="json") for clip in found.clips],
        "uncovered": found.uncovered,
        "cuts_s": found.cuts_s,
        "transitions": found.transitions,
        "timings": task.timings,
    }


@dataclass
class Measured:
    """What a source turned out to hold."""

    rejection: Rejection | None = None
    clips: list[Clip] = field(default_factory=list)
    uncovered: list[Span] = field(default_factory=list)
    cuts_s: list[float] = field(default_factory=list)
    transitions: list[Span] = field(default_factory=list)


def task_of(request: Request, scratch: Path) -> SourceTask:
    return SourceTask(
        path=Path(request["path"]),
        source_id=request["source_id"],
        kind=Kind(request["kind"]),
        probe=Probe.model_validate(request["probe"]),
        extract=ExtractConfig.model_validate(request["extract"]),
        limits=MediaLimits(**request["limits"]),
        scratch=scratch,
    )


def _measure_video(task: SourceTask) -> Measured:
    rejection = prefilter(task)
    if rejection is not None:
        return Measured(rejection)
    with task.timed("decode and score"):
        timeline = run_decode_pass(task.path, task.probe, limits=task.limits, config=pass_config(task.extract))
    return measured_film(task, timeline, hear(task))


def pass_config(extract: ExtractConfig) -> DecodePassConfig:
    shots, frames = extract.shots, extract.frames
    return DecodePassConfig(
        sample_short_side=frames.short_side,
        sample_quality=frames.quality,
        learned=load_detector(shots.weights, shots.threshold) if shots.backend == "transnet" else None,
    )


def measured_film(task: SourceTask, timeline: Timeline, sound: AudioFrames | None) -> Measured:
    """The clips of a film, from what its pictures and its sound gave; their frames are files in the scratch folder."""
    with task.timed("segment"):
        spans, uncovered = _segments(task, timeline, sound)
    clips = []
    with task.timed("score clips"):
        for index, (start_s, end_s) in enumerate(spans):
            clips.append(_video_clip(task, timeline, sound, clip_key(task.source_id, index), start_s, end_s))
    return Measured(
        clips=clips,
        uncovered=uncovered,
        cuts_s=[cut.time_s for cut in timeline.cuts],
        transitions=[(t.start_s, t.end_s, t.kind) for t in timeline.transitions],
    )


def prefilter(task: SourceTask) -> Rejection | None:
    """The recipe's rules on what the header and a pass over keyframes say."""
    if not task.extract.prefilter or task.probe.video is None:
        return None
    with task.timed("prefilter"):
        found = prefilter_scores(task.path, task.probe, limits=task.limits)
    scores = {f"prefilter.{name}": value for name, value in found.model_dump().items()}
    scores["prefilter.has_audio"] = task.probe.audio is not None
    return first_broken(task.extract.prefilter, Kind.VIDEO, scores, stage="prefilter")


def hear(task: SourceTask) -> AudioFrames | None:
    """Frame features of the whole track, streamed; None where there is no track or it is too short to be anything."""
    if task.probe.audio is None or not task.extract.audio:
        return None
    timeline = AudioTimeline(task.probe.audio.sample_rate)
    heard = 0
    with task.timed("audio"):
        for block in iter_audio(task.path, task.probe, limits=task.limits):
            timeline.update(block.samples)
            heard += block.samples.shape[1]
        return timeline.finish() if heard >= _SHORTEST_SOUND_S * task.probe.audio.sample_rate else None


def _segments(
    task: SourceTask, timeline: Timeline, sound: AudioFrames | None
) -> tuple[list[tuple[float, float]], list[Span]]:
    config = task.extract.segments
    cuts = [cut.time_s for cut in timeline.cuts]
    transitions = [(transition.start_s, transition.end_s) for transition in timeline.transitions]
    speech = speech_intervals(sound) if sound is not None else []
    breaks = _breaks(task, timeline)
    likeness = {cut: _likeness(timeline, cut) for cut in cuts} | dict.fromkeys(breaks, 0.0)
    held = held_pictures(timeline.frames.time_s, 1.0 / timeline.frame_rate, _video_end(task), config.min_s, breaks)
    picture = float(timeline.frames.time_s[0]), max([_picture_end(timeline), *(end_s for _, end_s in held)])
    limits = SegmentLimits(config.min_s, config.max_s, merge_above=config.merge_above)
    spans, uncovered = segment(
        max(picture[1], _sound_end(task)), sorted(likeness), transitions, speech, limits,
        picture=picture, held=held, similarities=[likeness[cut] for cut in sorted(likeness)],
    )  # fmt: skip
    spans, uncovered = on_pictures(spans, uncovered, timeline.frames.time_s, 1.0 / timeline.frame_rate, limits)
    told: list[Span] = [(u.start_s, u.end_s, u.reason) for u in uncovered if not _is_padding(u)]
    if task.probe.unread_bytes:
        told.append((task.probe.duration_s, task.probe.duration_s, "unread"))
    return [(span.start_s, span.end_s) for span in spans], told


def _breaks(task: SourceTask, timeline: Timeline) -> list[float]:
    """The first pictures after the clock's breaks: no clip goes across, even where both sides look alike."""
    times = timeline.frames.time_s
    after = np.searchsorted(times, np.array(task.probe.clock_breaks_s) - _EXACT_S)
    return [float(times[index]) for index in after if index < len(times)]


def _is_padding(span: Uncovered) -> bool:
    """Sound before the first or after the last picture so short that it is only how the streams were packed."""
    return span.reason == "no_picture" and span.seconds < _PADDING_S


def _sound_end(task: SourceTask) -> float:
    sound = task.probe.audio
    return 0.0 if sound is None or not task.extract.audio else sound.start_s + sound.duration_s


def _video_end(task: SourceTask) -> float:
    assert task.probe.video is not None
    return task.probe.video.start_s + task.probe.video.duration_s


def _likeness(timeline: Timeline, cut_s: float) -> float:
    """Share of equal bits of the perceptual hashes last seen before and first seen after a cut."""
    after = int(np.searchsorted(timeline.looks.time_s, cut_s))
    if not 0 < after < len(timeline.looks):
        return 0.0
    before, behind = timeline.looks.hashes[after - 1], timeline.looks.hashes[after]
    return 1.0 - int(np.bitwise_count(before ^ behind)) / 64


def _picture_end(timeline: Timeline) -> float:
    """When the last decoded picture leaves the screen: less than the header says if the file is damaged."""
    return float(timeline.frames.time_s[-1]) + 1.0 / timeline.frame_rate


def _video_clip(
    task: SourceTask, timeline: Timeline, sound: AudioFrames | None, key: str, start_s: float, end_s: float
) -> Clip:
    scores: dict[str, Any] = {f"visual.{k}": v for k, v in clip_scores(timeline, start_s, end_s).model_dump().items()}
    scores |= _decode_scores(timeline.report)
    if sound is not None:
        scores |= _sync_scores(timeline, sound, start_s, end_s)
    hashes, times = clip_hashes(timeline, start_s, end_s)
    _keep_frames(task, key, timeline.samples_between(start_s, end_s))
    crop = clip_crop(timeline, start_s, end_s)
    whole = (crop.width, crop.height) == (timeline.width, timeline.height)
    clip = Clip(
        key=key, source_id=task.source_id, kind=Kind.VIDEO, start_s=start_s, end_s=end_s,
        width=timeline.width, height=timeline.height, fps=timeline.frame_rate,
        crop=None if whole or not task.extract.cut.crop_borders else tuple(crop),
        has_audio=sound is not None, scores=scores, hashes=hashes, hash_times=times,
    )  # fmt: skip
    clip.rejection = first_broken(task.extract.gate, Kind.VIDEO, scores, stage="gate")
    return clip


def _decode_scores(report: DecodeReport) -> dict[str, float]:
    """How much of the source's pictures decoded as they were meant to; 1 is all."""
    nominal = max(report.nominal_frames, 1)
    return {
        "decode.frames_ratio": min(1.0, report.decoded_frames / nominal),
        "decode.corrupt_ratio": report.corrupt_frames / nominal,
        "decode.errors": float(report.errors),
    }


def _sync_scores(timeline: Timeline, sound: AudioFrames, start_s: float, end_s: float) -> dict[str, Any]:
    seen, heard = timeline.events.span(start_s, end_s), sound.span(start_s, end_s)
    found = measure_sync(seen.times, seen.values, heard.onset_times_s, heard.onset, timeline.frame_rate)
    if found is None:
        return {"sync.offset_frames": None, "sync.confidence": None}
    return {f"sync.{name}": value for name, value in vars(found).items()}


def _keep_frames(task: SourceTask, key: str, samples: list[SampledFrame]) -> None:
    """`per_clip` of the samples, evenly spread, as files."""
    count = min(task.extract.frames.per_clip, len(samples))
    for index, place in enumerate(np.linspace(0, max(0, len(samples) - 1), count).round().astype(int)):
        (task.scratch / f"{key}.f{index}.jpg").write_bytes(samples[place].jpeg)


def _measure_image(task: SourceTask) -> Measured:
    with task.timed("decode and score"):
        return Measured(clips=[picture_clip(task, read_image(task.path, task.limits))])


def picture_clip(task: SourceTask, rgb: NDArray[np.uint8]) -> Clip:
    """A still picture, (H, W, 3) RGB, as the one clip of its source, before it is cut."""
    found = measure_image(rgb)
    scores: dict[str, Any] = {f"visual.{k}": v for k, v in found.scores.model_dump().items()}
    height, width = rgb.shape[:2]
    whole = (found.crop.width, found.crop.height) == (width, height)
    clip = Clip(
        key=clip_key(task.source_id, 0), source_id=task.source_id, kind=Kind.IMAGE, width=width, height=height,
        frames=1, crop=None if whole or not task.extract.cut.crop_borders else tuple(found.crop),
        scores=scores, hashes=[found.hash], hash_times=[0.0],
    )  # fmt: skip
    clip.rejection = first_broken(task.extract.gate, Kind.IMAGE, scores, stage="gate")
    return clip


def _measure_audio(task: SourceTask) -> Measured:
    sound = hear(task)
    if sound is None:
        remedy = f"send at least {_SHORTEST_SOUND_S:g} s of sound, or set extract.audio=true"
        return Measured(Rejection(stage="audio", reason="too_short", remedy=remedy))
    clips = []
    for index, (start_s, end_s) in enumerate(_chunks(sound, task.extract.segments.max_s)):
        scores = {f"audio.{name}": value for name, value in scores_for_span(sound, start_s, end_s).flat().items()}
        clip = Clip(
            key=clip_key(task.source_id, index), source_id=task.source_id, kind=Kind.AUDIO,
            start_s=start_s, end_s=end_s, has_audio=True, scores=scores,
        )  # fmt: skip
        clip.rejection = first_broken(task.extract.gate, Kind.AUDIO, scores, stage="gate")
        clips.append(clip)
    return Measured(clips=clips)


def _chunks(sound: AudioFrames, longest_s: float) -> list[tuple[float, float]]:
    """Stretches of one class, cut at pauses where they are too long."""
    sounding = active_intervals(sound)
    return [
        span
        for stretch in class_segments(sound)
        for span in chunk_spans(
            stretch.start_s,
            stretch.end_s,
            [
                (max(a, stretch.start_s), min(b, stretch.end_s))
                for a, b in sounding
                if a < stretch.end_s and b > stretch.start_s
            ],
            longest_s,
            min(1.0, longest_s / 2),
        )
    ]
