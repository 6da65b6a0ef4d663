"""The one decode of a source video: every frame is shown once to every cheap measurement, and then forgotten.

A long film may be decoded in stretches, by several processes: together they give what one pass gives, to the bit, or
`StretchMismatch`. What a measurement knows of earlier frames reaches a second or so back, which every stretch decodes
as well; that its rate is slower than the film's, only the times of all frames before say, and those are known ahead.
"""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipelines.curation.visual.learned_shots import LearnedDetector, ShotMeter, find_learned_shots
from pipelines.curation.visual.meters import BlendMeter, Clock, CombMeter, FlowMeter, FrameMeter, LookMeter
from pipelines.curation.visual.sampled_frames import FrameSampler
from pipelines.curation.visual.shots import CutThresholds, find_cuts
from pipelines.curation.visual.timeline import (
    BlendCurves,
    CombCurve,
    FlowCurves,
    FrameCurves,
    Looks,
    SampledFrame,
    Timeline,
)
from pipelines.curation.visual.transitions import TransitionThresholds, find_transitions
from pipelines.curation.visual.working_frame import WorkingFrame, measurable_video
from skyreels.media.decode import DecodeReport, iter_video_frames
from skyreels.media.errors import MediaError
from skyreels.media.facts import Probe, VideoInfo
from skyreels.media.limits import DEFAULT_LIMITS, MediaLimits
from skyreels.media.motion_events import MotionEvents, motion_curve

_Table = TypeVar("_Table", FrameCurves, BlendCurves, FlowCurves, Looks, CombCurve)

_BACK = 4  # frames that any frame's own measurements look back at
_MOMENTS = 13  # of the blends' clock, which sees a second to either side: 12, and one to be sure
_COMPARED = 8  # frames that two stretches both measure, to be compared


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
    meters = _Meters(config, clocks(probe, config))
    per_window = ShotMeter(config.learned.predict) if config.learned else None
    for frame in iter_video_frames(path, probe, limits=limits, threads=config.threads, report=report):
        working = WorkingFrame(frame, video.width, video.height)
        meters.see(working)
        if per_window:
            per_window.see(working)
    return _timeline(meters.curves(), video, report, config, per_window)


@dataclass(frozen=True)
class Stretch:
    """[start_s, end_s) of a film, and what around it is decoded too, so that it is measured as within the whole.

    `due_s` says when each clock strikes next once decoding begins; `times` is a digest of the times of all frames
    within. `end_s` and `to_s` are infinite in the last.
    """

    start_s: float
    end_s: float
    from_s: float
    to_s: float
    due_s: dict[str, float]
    times: str


@dataclass(frozen=True)
class Curves:
    """What was measured of a film or a stretch. `steps` are those of `MotionEvents`: times, one, two."""

    frames: FrameCurves
    blends: BlendCurves
    flow: FlowCurves
    looks: Looks
    combs: CombCurve
    steps: tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
    samples: list[SampledFrame]


class StretchMismatch(MediaError):
    """The stretches of a film would not be what one pass gives: it is damaged, or its key frames lean on others."""

    def __init__(self, detail: str) -> None:
        super().__init__("stretches_differ", "Measure it in one pass.", detail)


def plan_stretches(
    times: NDArray[np.float64], probe: Probe, config: DecodePassConfig, shortest_s: float
) -> list[Stretch]:
    """Stretches of at least `shortest_s` that begin at key frames, for frames at these times; [] for fewer than two."""
    assert probe.video is not None
    keys = np.array(probe.video.keyframe_times_s)
    borders = _borders(times, keys, shortest_s)
    struck: dict[str, NDArray[np.intp]] = {}
    due: dict[str, NDArray[np.float64]] = {}
    for name, clock in clocks(probe, config).items():
        skipped = 1 if name == "comb" else 0  # whose clock is not looked at when there is no frame before
        before, strikes = _run(clock, times[skipped:])
        due[name] = np.concatenate([before[:1], before]) if skipped else before
        struck[name] = np.flatnonzero(strikes) + skipped
    made = []
    for first, after in zip(borders, [*borders[1:], len(times)], strict=True):
        begin, to = _begin(first, times, keys, struck), _leave(after, len(times), struck)
        made.append(
            Stretch(
                start_s=float(times[first]),
                end_s=float(times[after]) if after < len(times) else np.inf,
                from_s=float(times[begin]),
                to_s=float(times[to]) if to < len(times) else np.inf,
                # The comb's first frame has none before it, and its clock is first looked at one frame later.
                due_s={name: float(known[begin + (name == "comb")]) for name, known in due.items()},
                times=_digest(times[first:after]),
            )
        )
    return made if len(made) > 1 else []


def measure_stretch(
    path: str | Path, probe: Probe, stretch: Stretch, config: DecodePassConfig, limits: MediaLimits = DEFAULT_LIMITS
) -> Curves:
    """Of the frames of a stretch, and of the first few after it, which `join_stretches` compares.

    Raises StretchMismatch where anything is damaged, interlaced, or at another time than was planned.
    """
    video = measurable_video(path, probe)
    report = DecodeReport()
    meters = _Meters(config, clocks(probe, config, stretch.due_s))
    begin, end = stretch.from_s, None if np.isinf(stretch.to_s) else stretch.to_s
    for frame in iter_video_frames(
        path, probe, limits=limits, start_s=begin, end_s=end, threads=config.threads, report=report
    ):
        if frame.source.interlaced_frame:
            raise StretchMismatch(f"interlaced at {frame.time_s:.3f} s")
        meters.see(WorkingFrame(frame, video.width, video.height))
    curves = meters.curves()
    if report.bit_rot_suspected:
        raise StretchMismatch(f"damaged between {begin:.3f} and {stretch.to_s:.3f} s: {report.first_error}")
    inside = curves.frames.between(stretch.start_s, stretch.end_s)
    if _digest(curves.frames.time_s[inside]) != stretch.times:
        raise StretchMismatch(f"the frames from {stretch.start_s:.3f} s on do not come at the times of their packets")
    return _between(curves, stretch.start_s, stretch.end_s, _COMPARED)


def join_stretches(
    found: Sequence[Curves], planned: Sequence[Stretch], probe: Probe, config: DecodePassConfig
) -> Timeline:
    """What `run_decode_pass` gives. Raises StretchMismatch where two stretches saw the same frames differently."""
    assert probe.video is not None
    for before, after in itertools.pairwise(found):
        _compare(before.frames, after.frames)
    kept = [_between(curves, stretch.start_s, stretch.end_s, 0) for curves, stretch in zip(found, planned, strict=True)]
    curves = Curves(
        frames=_rows([one.frames for one in kept]),
        blends=_rows([one.blends for one in kept]),
        flow=_rows([one.flow for one in kept]),
        looks=_rows([one.looks for one in kept]),
        combs=_rows([one.combs for one in kept]),
        steps=tuple(np.concatenate(some) for some in zip(*(one.steps for one in kept), strict=True)),  # type: ignore[arg-type]
        samples=[sample for one in kept for sample in one.samples],
    )
    video, count = probe.video, len(curves.frames)
    nominal = video.shown_packets + max(0, (video.header_frames or 0) - video.packets)
    return _timeline(curves, video, DecodeReport(nominal_frames=nominal, decoded_frames=count), config, None)


def clocks(probe: Probe, config: DecodePassConfig, due_s: Mapping[str, float] | None = None) -> dict[str, Clock]:
    """Of the meters that look at fewer frames than there are, by what they measure."""
    made = {
        "blend": BlendMeter.clock(),
        "comb": CombMeter.clock(),
        "flow": Clock(1.0 / config.flow_rate),
        "look": Clock(1.0 / config.look_rate),
        "sample": Clock(max(config.sample_interval_s, probe.duration_s / config.max_samples)),
    }
    for name, clock in made.items():
        clock.due_s = clock.due_s if due_s is None else due_s[name]
    return made


class _Meters:
    """Everything that is measured of frames one by one."""

    def __init__(self, config: DecodePassConfig, clock: Mapping[str, Clock]) -> None:
        self._frames, self._blends, self._events = FrameMeter(), BlendMeter(clock["blend"]), MotionEvents()
        self._flow, self._looks, self._combs = (
            FlowMeter(clock["flow"]),
            LookMeter(clock["look"]),
            CombMeter(clock["comb"]),
        )
        self._sampler = FrameSampler(clock["sample"], config.sample_short_side, config.sample_quality)
        self._consumers: list[Consumer] = [
            self._frames, self._blends, self._flow, self._looks, self._combs, self._sampler
        ]  # fmt: skip

    def see(self, frame: WorkingFrame) -> None:
        for consumer in self._consumers:
            consumer.see(frame)
        self._events.update(frame.tiny, frame.time_s)

    def curves(self) -> Curves:
        return Curves(
            self._frames.curves(), self._blends.curves(), self._flow.curves(), self._looks.curves(),
            self._combs.curve(), self._events.steps(), self._sampler.samples,
        )  # fmt: skip


def _timeline(
    curves: Curves, video: VideoInfo, report: DecodeReport, config: DecodePassConfig, per_window: ShotMeter | None
) -> Timeline:
    transitions = find_transitions(curves.frames, curves.blends, config.transitions)
    if config.learned and per_window:
        found = per_window.probabilities()
        cuts, transitions = find_learned_shots(
            found, curves.frames.time_s, transitions, config.learned, config.cuts.min_shot_s
        )
    else:
        cuts = find_cuts(curves.frames, transitions, config.cuts)
    width, height = video.display_size
    return Timeline(
        width=width,
        height=height,
        frame_rate=float(video.steady_rate),
        duration_s=video.duration_s,
        frames=curves.frames,
        blends=curves.blends,
        flow=curves.flow,
        looks=curves.looks,
        combs=curves.combs,
        events=motion_curve(*curves.steps),
        samples=curves.samples,
        cuts=cuts,
        transitions=transitions,
        report=report,
    )


def _borders(times: NDArray[np.float64], keys: NDArray[np.float64], shortest_s: float) -> list[int]:
    """Indices of the frames at which stretches begin; all but the first are key frames."""
    borders = [0]
    places = np.searchsorted(times, keys)
    for place in places[(places < len(times)) & np.isin(keys, times)].tolist():
        if min(times[place] - times[borders[-1]], times[-1] - times[place]) >= shortest_s:
            borders.append(place)
    return borders


def _run(clock: Clock, times: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """When the clock is due before each frame is seen, and whether it then strikes."""
    due, struck = np.empty(len(times)), np.empty(len(times), bool)
    for index, time_s in enumerate(times.tolist()):
        due[index] = clock.due_s
        struck[index] = clock.strikes(time_s)
    return due, struck


def _begin(first: int, times: NDArray[np.float64], keys: NDArray[np.float64], struck: Mapping[str, Any]) -> int:
    """The key frame from which on to decode, so that all that a measurement looks back at is there."""
    if first == 0:
        return 0
    wanted = [first - _BACK]
    for name, back in (("blend", _MOMENTS), ("flow", 1)):
        seen = int(np.searchsorted(struck[name], first))
        wanted.append(int(struck[name][seen - back]) if seen >= back else 0)
    before = keys[keys <= times[max(0, min(wanted))]]
    return int(np.searchsorted(times, before[-1])) if len(before) and before[-1] in times else 0


def _leave(after: int, count: int, struck: Mapping[str, Any]) -> int:
    """The first frame that is decoded no more."""
    ahead = int(np.searchsorted(struck["blend"], after)) + _MOMENTS
    return max(int(struck["blend"][ahead]), after + _COMPARED + 1) if ahead < len(struck["blend"]) else count


def _between(curves: Curves, start_s: float, end_s: float, more_frames: int) -> Curves:
    """Of the frames from `start_s` to `end_s`, and of frames alone that many more."""
    inside = curves.frames.between(start_s, end_s)
    step_times = curves.steps[0]
    first, last = np.searchsorted(step_times, (start_s, end_s))
    return Curves(
        frames=_cut(curves.frames, slice(inside.start, inside.stop + more_frames)),
        blends=_cut(curves.blends, curves.blends.between(start_s, end_s)),
        flow=_cut(curves.flow, curves.flow.between(start_s, end_s)),
        looks=_cut(curves.looks, curves.looks.between(start_s, end_s)),
        combs=_cut(curves.combs, curves.combs.between(start_s, end_s)),
        steps=tuple(values[first:last] for values in curves.steps),  # type: ignore[arg-type]
        samples=[sample for sample in curves.samples if start_s <= sample.time_s < end_s],
    )


def _cut(rows: _Table, part: slice) -> _Table:
    return type(rows)(**{name: value[part] if name != "half_s" else value for name, value in _columns(rows)})


def _rows(tables: Sequence[_Table]) -> _Table:
    """One after the other."""
    columns: dict[str, Any] = {
        name: value if name == "half_s" else np.concatenate([getattr(table, name) for table in tables])
        for name, value in _columns(tables[0])
    }
    return type(tables[0])(**columns)


def _columns(rows: Any) -> list[tuple[str, Any]]:
    return [(column.name, getattr(rows, column.name)) for column in fields(rows)]


def _compare(before: FrameCurves, after: FrameCurves) -> None:
    """The frames after the end of one stretch with the first ones of the next; the last's step is not known yet."""
    shared = before.time_s >= after.time_s[0]
    count = int(shared.sum()) - 1
    same = all(np.array_equal(value[shared][:count], getattr(after, name)[:count]) for name, value in _columns(before))
    if not same:
        raise StretchMismatch(f"the frames from {after.time_s[0]:.3f} s on differ where they are decoded from before")


def _digest(times: NDArray[np.float64]) -> str:
    return hashlib.blake2b(np.ascontiguousarray(times, np.float64).tobytes(), digest_size=16).hexdigest()
