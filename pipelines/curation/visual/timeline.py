"""What one decode of a video leaves behind: curves, looks, sampled frames, cuts. Small, picklable, without pixels.

Nothing here is a verdict: every threshold is applied later, to numbers that stay.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from skyreels.media.decode import DecodeReport
from skyreels.media.motion_events import MotionCurve

Floats = NDArray[np.float32]


class _Rows:
    """Arrays of equal length, one entry per measured moment, cut by time."""

    time_s: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.time_s)

    def between(self, start_s: float, end_s: float) -> slice:
        """The entries with `start_s <= time_s < end_s`."""
        first, last = np.searchsorted(self.time_s, (start_s, end_s))
        return slice(int(first), int(last))


@dataclass(frozen=True)
class FrameCurves(_Rows):
    """One entry per decoded frame. Luma is 0-255 as stored; a `change` is against the frame before, 0 at the first.

    `content_change` is PySceneDetect's content value (mean absolute difference of H, S and V, 0-255);
    `block_change` the largest mean absolute luma difference of any of 32 x 18 blocks;
    `step_change` the mean absolute colour difference between the frames 2 before and 1 after, blind to flashes.
    """

    time_s: NDArray[np.float64]
    luma_mean: Floats
    luma_std: Floats
    luma_low: Floats  # 3rd percentile
    luma_high: Floats  # 97th percentile
    dark_fraction: Floats  # pixels with luma < 32
    bright_fraction: Floats  # pixels with luma > 229
    blown_fraction: Floats  # pixels with a colour channel at its ceiling
    content_change: Floats
    luma_change: Floats
    block_change: Floats
    step_change: Floats


@dataclass(frozen=True)
class BlendCurves(_Rows):
    """One entry per ~1/12 s: how far a frame is a mixture of the frames `half_s` before and after it.

    `mixture` is the share of the picture that changes between those two and has gone the same part of its way, and
    `weight` that part; ~0.5-1 with weights between 0 and 1 in a dissolve. `likeness` is the correlation of the two in
    that share, `superposed` how much fine detail the frame lacks: 1 where two pictures lie on each other, 0 in one.
    """

    time_s: NDArray[np.float64]
    half_s: tuple[float, ...]
    mixture: Floats  # (N, len(half_s))
    weight: Floats  # (N, len(half_s))
    likeness: Floats  # (N, len(half_s))
    superposed: Floats  # (N, len(half_s))


@dataclass(frozen=True)
class FlowCurves(_Rows):
    """One entry per ~1/10 s: dense flow since `interval_s` before, in fractions of the frame's diagonal.

    `dx, dy` are the camera's translation (right, down positive: the picture's movement), `zoom` its relative
    scale change and `roll` its rotation in radians; `speed` is the mean flow, `object_speed` what is left of it
    without the camera. All per interval, not per second.
    """

    time_s: NDArray[np.float64]
    interval_s: Floats
    dx: Floats
    dy: Floats
    zoom: Floats
    roll: Floats
    speed: Floats
    object_speed: Floats
    texture: Floats  # standard deviation of luma (0-255) in which the flow was sought


@dataclass(frozen=True)
class Looks(_Rows):
    """One entry per ~1/2 s, from the full-size luma plane. See `blur.py`, `borders.py` and `perceptual_hash.py`."""

    time_s: NDArray[np.float64]
    sharpness: Floats
    sharpness_peak: Floats
    lit_rows: NDArray[np.uint8]  # (N, H'): share of lit pixels in each row, 255 = all
    lit_columns: NDArray[np.uint8]  # (N, W')
    hashes: NDArray[np.uint64]


@dataclass(frozen=True)
class CombCurve(_Rows):
    """One entry per ~0.43 s, which walks through the five steps of a film's pulldown. See `combing.py`."""

    time_s: NDArray[np.float64]
    combing: Floats  # NaN where hardly anything moves


@dataclass(frozen=True)
class SampledFrame:
    """An upright JPEG."""

    time_s: float
    jpeg: bytes


@dataclass(frozen=True)
class Cut:
    """A hard cut: `time_s` is that of the first frame of the new shot, the `frame_index`-th decoded."""

    frame_index: int
    time_s: float
    strength: float  # adaptive ratio, or a network's probability


@dataclass(frozen=True)
class Transition:
    """A gradual change of shot: no clip should hold any of it."""

    kind: str  # "fade" (through black or white), "dissolve", "blank", or a network's "gradual"
    start_s: float
    end_s: float
    strength: float


@dataclass(frozen=True)
class Timeline:
    """Everything measured on one video. `width` x `height` is the upright picture in source pixels."""

    width: int
    height: int
    frame_rate: float
    duration_s: float
    frames: FrameCurves
    blends: BlendCurves
    flow: FlowCurves
    looks: Looks
    combs: CombCurve
    events: MotionCurve
    samples: list[SampledFrame]
    cuts: list[Cut]
    transitions: list[Transition]
    report: DecodeReport

    def samples_between(self, start_s: float, end_s: float) -> list[SampledFrame]:
        return [sample for sample in self.samples if start_s <= sample.time_s < end_s]

    @property
    def nbytes(self) -> int:
        """Bytes held by the curves and the sampled frames."""
        curves = (self.frames, self.blends, self.flow, self.looks, self.combs, self.events)
        arrays = (getattr(curve, f.name) for curve in curves for f in fields(curve))
        return sum(a.nbytes for a in arrays if isinstance(a, np.ndarray)) + sum(len(s.jpeg) for s in self.samples)
