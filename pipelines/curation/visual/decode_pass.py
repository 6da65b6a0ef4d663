"""The one decode of a source video: every frame is shown once to every cheap measurement, and then forgotten."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pipelines.curation.visual.learned_shots import LearnedDetector, ShotMeter, find_learned_shots
from pipelines.curation.visual.meters import BlendMeter, CombMeter, FlowMeter, FrameMeter, LookMeter
from pipelines.curation.visual.sampled_frames import FrameSampler
from pipelines.curation.visual.shots import CutThresholds, find_cuts
from pipelines.curation.visual.timeline import Timeline
from pipelines.curation.visual.transitions import TransitionThresholds, find_transitions
from pipelines.curation.visual.working_frame import WorkingFrame, measurable_video
from skyreels.media.decode import DecodeReport, iter_video_frames
from skyreels.media.facts import Probe
from skyreels.media.limits import DEFAULT_LIMITS, MediaLimits
from skyreels.media.motion_events import MotionEvents


class Consumer(Protocol):
    """Is shown every frame once, in order."""

    def see(self, frame: WorkingFrame) -> None: ...


@dataclass(frozen=True)
class DecodePassConfig:
    """How often what is measured, and what counts as a cut. The rates are upper bounds; the frame rate is another.

    With `learned` a network finds the hard cuts, and transitions beside those that are measured.
    """

    flow_rate: float = 10.0
    look_rate: float = 2.0
    sample_interval_s: float = 1.0
    max_samples: int = 10_000
    sample_short_side: int = 256
    sample_quality: int = 90
    threads: int = 1
    cuts: CutThresholds = field(default_factory=CutThresholds)
    transitions: TransitionThresholds = field(default_factory=TransitionThresholds)
    learned: LearnedDetector | None = None


def run_decode_pass(
    path: str | Path,
    probe: Probe,
    *,
    limits: MediaLimits = DEFAULT_LIMITS,
    config: DecodePassConfig = DecodePassConfig(),
) -> Timeline:
    """Decode `path` once and measure everything. Memory grows by ~70 bytes a frame and ~25 kB a sampled frame.

    Raises `MediaError` where nothing can be decoded; damaged files give what can be, and say so in the report.
    """
    video = measurable_video(path, probe)
    report = DecodeReport()
    per_frame, per_blend, events = FrameMeter(), BlendMeter(), MotionEvents()
    per_flow, per_look, per_comb = FlowMeter(config.flow_rate), LookMeter(config.look_rate), CombMeter()
    sampler = FrameSampler(
        max(config.sample_interval_s, probe.duration_s / config.max_samples),
        config.sample_short_side,
        config.sample_quality,
    )
    consumers: list[Consumer] = [per_frame, per_blend, per_flow, per_look, per_comb, sampler]
    per_window = ShotMeter(config.learned.predict) if config.learned else None
    if per_window:
        consumers.append(per_window)
    for frame in iter_video_frames(path, probe, limits=limits, threads=config.threads, report=report):
        working = WorkingFrame(frame, video.width, video.height)
        for consumer in consumers:
            consumer.see(working)
        events.update(working.tiny, working.time_s)
    frames, blends = per_frame.curves(), per_blend.curves()
    transitions = find_transitions(frames, blends, config.transitions)
    if config.learned and per_window:
        found = per_window.probabilities()
        cuts, transitions = find_learned_shots(
            found, frames.time_s, transitions, config.learned, config.cuts.min_shot_s
        )
    else:
        cuts = find_cuts(frames, transitions, config.cuts)
    width, height = video.display_size
    return Timeline(
        width=width,
        height=height,
        frame_rate=float(video.steady_rate),
        duration_s=video.duration_s,
        frames=frames,
        blends=blends,
        flow=per_flow.curves(),
        looks=per_look.curves(),
        combs=per_comb.curve(),
        events=events.curve(),
        samples=sampler.samples,
        cuts=cuts,
        transitions=transitions,
        report=report,
    )
