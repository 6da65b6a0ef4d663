"""What the times of a source's pictures say about where clips may lie. Pure functions of times."""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.curation.pool.segments import SegmentLimits, Span, Uncovered

_NEAR_S = 1e-3  # containers round to milliseconds
_AT_BREAK = 2.0  # steps between the last picture of one recording and the first of the next: packing, not a gap


def held_pictures(
    times: NDArray[np.float64], step_s: float, end_s: float, longest_s: float, breaks: Collection[float] = ()
) -> list[tuple[float, float]]:
    """Where one picture stays for more than `longest_s`, or none decodes: from when the next was due until it comes.

    `times` are those of the pictures, one every `step_s` where they move; the last one stays until `end_s`. At
    `breaks`, the first pictures of other recordings, what is before has ended and nothing is held at all.
    """
    due_s = step_s if step_s < longest_s / 2 else 0.0  # slides are held from the start
    ends = np.append(times[1:], max(float(times[-1]) + step_s, end_s))
    allowed_s = np.where(np.isin(ends, list(breaks)), min(_AT_BREAK * step_s, longest_s), longest_s)
    long = np.flatnonzero(ends - times > allowed_s + _NEAR_S)
    return [(float(times[index]) + due_s, float(ends[index])) for index in long]


def on_pictures(
    spans: Sequence[Span],
    uncovered: Sequence[Uncovered],
    times: NDArray[np.float64],
    step_s: float,
    limits: SegmentLimits,
) -> tuple[list[Span], list[Uncovered]]:
    """The same spans with every clip beginning at the picture nearest to where it did, if one is within half a step.

    The instants of a clip then fall on pictures, not between two of them, where rounded times would make some show
    twice and others never.
    """
    moved = {span.start_s: _nearest(times, span.start_s, step_s) for span in spans}
    made = [Span(moved[span.start_s], moved.get(span.end_s, span.end_s)) for span in spans]
    if any(after.seconds < limits.min_s - _NEAR_S <= before.seconds for after, before in zip(made, spans, strict=True)):
        return list(spans), list(uncovered)
    rest = [Uncovered(moved.get(u.start_s, u.start_s), moved.get(u.end_s, u.end_s), u.reason) for u in uncovered]
    return made, [span for span in rest if span.seconds > 0]


def _nearest(times: NDArray[np.float64], time_s: float, step_s: float) -> float:
    after = int(np.searchsorted(times, time_s))
    near = min(times[max(0, after - 1) : after + 1], key=lambda other: abs(other - time_s), default=time_s)
    return float(near) if _NEAR_S < abs(near - time_s) <= step_s / 2 + _NEAR_S else time_s
