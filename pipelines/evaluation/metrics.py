"""One metric for each sub-dimension of SkyReels-VABench that is judged by machine: a number for one clip.

`METRICS` is all of them. A metric declares what it reads; a suite names those that fit its task. Those of the world
compare what the judge sees and hears with the truth; the others hold for any clip.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from pipelines.evaluation.clips import Clip
from pipelines.evaluation.films import Truth
from pipelines.evaluation.judge import measures
from pipelines.evaluation.judge.path import Path, follow
from pipelines.evaluation.judge.picture import Picture, look
from pipelines.evaluation.judge.sound import onsets, sound_class

Input = Literal["frames", "audio", "truth", "source", "given", "keep", "baseline", "unrefined", "dense"]
Control = Literal["truth", "shuffled", "shifted", "frozen", "noise"]
LOOSE_S, TIGHT_S = 0.1, 0.04  # how far an event may be from its partner
END_S = 0.15  # at the end of a clip, where a picture does not yet show that something was hit
_BETWEEN = slice(1, None, 2)  # of a refined clip, the frames that the base did not make
_COVERED = 32  # levels by which a pixel differs from what lies behind it
NO_PARTNER_S = 1.0  # the offset where nothing was found at all


@dataclass(frozen=True)
class Case:
    """A clip that was made, and what it is held against.

    `source` is what it should look and sound like, or was made from. `given` maps frames that were made to frames of
    the source that were handed in; `keep` (F, H, W) is True where the source was to stay. `own_hits`: the sound is to
    meet the hits of the picture beside it, not those of the truth. `baseline` are frames to be better than.
    """

    made: Clip
    truth: Truth
    source: Clip | None = None
    given: Mapping[int, int] = field(default_factory=dict)
    keep: np.ndarray | None = None
    own_hits: bool = False
    baseline: np.ndarray | None = None

    @property
    def inputs(self) -> set[str]:
        """What there is to read."""
        there: dict[str, Any] = {
            "frames": self.made.frames,
            "audio": self.made.audio,
            "source": self.source,
            "truth": self.truth,
        }
        there |= {"keep": self.keep, "baseline": self.baseline, "given": self.given or None}
        there |= {"unrefined": self.made.unrefined, "dense": self.made.dense}
        return {name for name, value in there.items() if value is not None}

    @property
    def frames(self) -> np.ndarray:
        assert self.made.frames is not None
        return self.made.frames

    @property
    def audio(self) -> np.ndarray:
        assert self.made.audio is not None
        return self.made.audio

    @cached_property
    def picture(self) -> Picture:
        return look(self.frames)

    @cached_property
    def path(self) -> Path:
        return follow(self.picture.centres, self.made.fps, self.frames.shape[2] / self.frames.shape[1])

    @cached_property
    def onsets(self) -> tuple[float, ...]:
        return onsets(self.audio, self.made.sample_rate)

    @cached_property
    def sound(self) -> str:
        return sound_class(self.audio, self.made.sample_rate)

    @property
    def source_frames(self) -> np.ndarray:
        assert self.source is not None
        assert self.source.frames is not None
        return self.source.frames

    @property
    def hits(self) -> tuple[float, ...]:
        """What the sound should meet."""
        return self.path.hits if self.own_hits else self.truth.hits


@dataclass(frozen=True)
class Metric:
    """`score` gives a number, or None where a clip does not bear on it (no impacts in it, say).

    `kind`: "share" is of clips that are right (Wilson interval); "mean" and "median" are of numbers (bootstrap).
    `least_on_truth` is what ground truth must reach; `bounds` what no damaged clip may reach, by kind of damage. Both
    are told in the metric's unit, and on the side that is worse where `lower_is_better`.
    """

    name: str
    dimension: str
    inputs: frozenset[Input]
    score: Callable[[Case], float | None]
    kind: Literal["share", "mean", "median"] = "share"
    unit: str = ""
    lower_is_better: bool = False
    least_on_truth: float | None = None
    bounds: Mapping[Control, float] = field(default_factory=dict)

    def of(self, case: Case) -> float | None:
        """The score; ValueError where the case lacks an input."""
        missing = self.inputs - case.inputs
        if missing:
            raise ValueError(f"metric {self.name} reads {', '.join(sorted(missing))}, which this case lacks")
        return self.score(case)


def _moves(case: Case) -> float:
    return float(case.path.kind == case.truth.motion)


def _event_f1(tolerance_s: float) -> Callable[[Case], float | None]:
    def score(case: Case) -> float | None:
        if not case.truth.hits:
            return None
        until = case.made.seconds - END_S
        return measures.event_f1(case.onsets, case.hits, tolerance_s, until) if case.hits else 0.0

    return score


def _offset(case: Case) -> float | None:
    if not case.truth.hits:
        return None
    offsets = measures.nearest_offsets(case.onsets, case.hits)
    return 1000 * (float(np.median(np.abs(offsets))) if offsets else NO_PARTNER_S)


def _seen_hits(case: Case) -> float | None:
    """Of a picture made for a sound: its own hits against those that are heard."""
    until = case.made.seconds - END_S
    return measures.event_f1(case.path.hits, case.truth.hits, LOOSE_S, until) if case.truth.hits else None


def _given(case: Case) -> float:
    made, source = zip(*case.given.items(), strict=True)
    return measures.psnr(case.frames[list(made)], case.source_frames[list(source)])


def _counted(case: Case) -> float:
    """Subjects before a plain background: noise shows none of either."""
    return float(case.picture.background is not None and case.picture.count == case.truth.subjects)


def _identity(case: Case) -> float:
    """Shape, colour and background are those that were given."""
    seen, truth = case.picture, case.truth
    return float((seen.shape, seen.colour, seen.background) == (truth.shape, truth.colour, truth.background))


def _position(case: Case) -> float:
    """Distance from the true place in % of the width, half a second after what was given, or at the end."""
    last = max(case.given, default=0)
    at = min(last + round(0.5 * case.made.fps), len(case.frames) - 1)
    gap = float(np.linalg.norm(case.picture.centres[at] - case.truth.centres[at]))
    return 100 * (gap if np.isfinite(gap) else 1.0)


def _kept(case: Case) -> float:
    assert case.keep is not None
    return float(np.array_equal(case.frames[case.keep], case.source_frames[case.keep]))


def _filled(case: Case) -> float:
    assert case.keep is not None
    return measures.psnr(case.frames, case.source_frames, ~case.keep)


def _rest(case: Case) -> float:
    assert case.keep is not None
    return measures.psnr(case.frames, case.source_frames, case.keep)


def _uncovered(case: Case) -> float | None:
    """Of the pixels that something lay over, the share that is nearer to what lies behind it."""
    assert case.baseline is not None
    made, clean, laid = (frames.astype(int) for frames in (case.frames, case.source_frames, case.baseline))
    covered = np.abs(laid - clean).max(-1) > _COVERED
    if not covered.any():
        return None
    return float((np.abs(made - clean).sum(-1) < np.abs(made - laid).sum(-1))[covered].mean())


def _restyled(case: Case) -> float | None:
    """Whether most of the pixels that a new style changes are nearer to it than to the old one."""
    share = _uncovered(case)
    return None if share is None else float(share > 0.5)


def _alignment(case: Case) -> float | None:
    return measures.av_align(case.frames, case.made.fps, case.audio, case.made.sample_rate)


def _nearer(case: Case, other: np.ndarray | None, every: slice = slice(None)) -> float:
    """Decibels nearer to the truth than `other` is, in the frames of `every`."""
    assert other is not None
    truth = case.source_frames[every]
    return measures.psnr(case.frames[every], truth) - measures.psnr(other[every], truth)


def _spectrum(case: Case) -> float:
    assert case.source is not None
    assert case.source.audio is not None
    return measures.spectral_correlation(case.source.audio, case.audio, case.made.sample_rate)


def _reads(*inputs: Input) -> frozenset[Input]:
    return frozenset(inputs)


_SUBJECT, _EVENTS = (
    "instruction following, video: subject description",
    "instruction following, audio: temporal accuracy",
)
_SYNC, _STABLE = "audio-visual sync: sound-effect alignment", "motion quality: temporal consistency"
_SEEN, _HEARD = _reads("frames", "truth"), _reads("audio", "truth")
_BOTH, _AGAINST = _reads("frames", "audio", "truth"), _reads("frames", "source")

_ALL = (
    Metric("colour", _SUBJECT, _SEEN, lambda c: float(c.picture.colour == c.truth.colour), least_on_truth=0.97,
           bounds={"shuffled": 0.4, "noise": 0.4}),
    Metric("shape", _SUBJECT, _SEEN, lambda c: float(c.picture.shape == c.truth.shape), least_on_truth=0.97,
           bounds={"shuffled": 0.45, "noise": 0.1}),
    Metric("background", "instruction following, video: subject description (setting)", _SEEN,
           lambda c: float(c.picture.background == c.truth.background), least_on_truth=0.97,
           bounds={"shuffled": 0.3, "noise": 0.3}),
    Metric("motion", "instruction following, video: subject description (action)", _SEEN, _moves, least_on_truth=0.97,
           bounds={"shuffled": 0.45, "frozen": 0.05, "noise": 0.1}),
    Metric("count", _SUBJECT, _SEEN, _counted, least_on_truth=0.97,
           bounds={"noise": 0.3}),
    Metric("one_shot", "instruction following, video: multi-shot consistency", _reads("frames"),
           lambda c: float(not c.picture.cuts), least_on_truth=0.97),
    Metric("sound", "instruction following, audio: semantic adherence", _HEARD,
           lambda c: float(c.sound == c.truth.sound), least_on_truth=0.97, bounds={"shuffled": 0.45, "noise": 0.35}),
    Metric("event_f1", _EVENTS, _BOTH, _event_f1(LOOSE_S), "mean", least_on_truth=0.97,
           bounds={"shuffled": 0.9, "shifted": 0.3, "noise": 0.4}),
    Metric("event_f1_tight", _EVENTS, _BOTH, _event_f1(TIGHT_S), "mean", least_on_truth=0.9,
           bounds={"shuffled": 0.75, "shifted": 0.3, "noise": 0.3}),
    Metric("offset", _SYNC, _BOTH, _offset, "median", "ms", lower_is_better=True, least_on_truth=40.0,
           bounds={"shifted": 100.0}),
    Metric("seen_hits_f1", _SYNC, _SEEN, _seen_hits, "mean", least_on_truth=0.97,
           bounds={"frozen": 0.05, "noise": 0.1}),
    Metric("av_align", _SYNC, _reads("frames", "audio"), _alignment, "mean"),
    Metric("given_frames", "visual quality: structural integrity", _reads("frames", "source", "given"), _given,
           "mean", "dB", least_on_truth=40.0, bounds={"noise": 15.0}),
    Metric("identity", _STABLE, _SEEN, _identity, least_on_truth=0.97, bounds={"shuffled": 0.2, "noise": 0.05}),
    Metric("position", "motion quality: plausibility", _SEEN, _position, "median", "% of width", lower_is_better=True,
           least_on_truth=3.0, bounds={"noise": 12.0}),
    Metric("kept", _STABLE, _reads("frames", "source", "keep"), _kept, least_on_truth=0.97,
           bounds={"noise": 0.0}),
    Metric("filled", "visual quality: structural integrity", _reads("frames", "source", "keep"), _filled, "mean",
           "dB", least_on_truth=40.0, bounds={"noise": 15.0}),
    Metric("rest", _STABLE, _reads("frames", "source", "keep"), _rest, "mean", "dB", least_on_truth=40.0,
           bounds={"noise": 15.0}),
    Metric("uncovered", "visual quality: structural integrity", _reads("frames", "source", "baseline"), _uncovered,
           "mean", least_on_truth=0.97, bounds={"noise": 0.8}),
    Metric("restyled", "instruction following, video: subject description (style)",
           _reads("frames", "source", "baseline"), _restyled, least_on_truth=0.97, bounds={"noise": 0.7}),
    Metric("picture_psnr", "visual quality: clarity", _AGAINST,
           lambda c: measures.psnr(c.frames, c.source_frames), "mean", "dB", least_on_truth=40.0,
           bounds={"noise": 15.0}),
    Metric("gain", "visual quality: clarity", _reads("frames", "source", "baseline"),
           lambda c: _nearer(c, c.baseline), "mean", "dB", least_on_truth=10.0, bounds={"noise": 0.0}),
    Metric("gain_given", "visual quality: clarity", _reads("frames", "source", "unrefined"),
           lambda c: _nearer(c, c.made.unrefined), "mean", "dB", least_on_truth=10.0, bounds={"noise": 0.0}),
    Metric("gain_between", "motion quality: fluidity", _reads("frames", "source", "unrefined"),
           lambda c: _nearer(c, c.made.unrefined, _BETWEEN), "mean", "dB", least_on_truth=10.0, bounds={"noise": 0.0}),
    Metric("sparse_gain", "visual quality: clarity", _reads("frames", "source", "dense"),
           lambda c: _nearer(c, c.made.dense), "mean", "dB", least_on_truth=-0.1, bounds={"noise": -5.0}),
    Metric("spectrum", "audio quality: clarity", _reads("audio", "source"), _spectrum, "mean",
           least_on_truth=0.97, bounds={"noise": 0.6}),
    Metric("sharpness", "visual quality: clarity", _reads("frames"), lambda c: measures.sharpness(c.frames),
           "mean", "levels"),
    Metric("flicker", "motion quality: stability", _reads("frames"), lambda c: measures.flicker(c.frames), "mean",
           "levels", lower_is_better=True),
    Metric("loudness", "audio quality: dynamic range", _reads("audio"), lambda c: measures.loudness_db(c.audio),
           "mean", "dB"),
    Metric("clipping", "audio quality: artefacts", _reads("audio"), lambda c: measures.clipping(c.audio), "mean",
           lower_is_better=True),
)  # fmt: skip
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _ALL}
