"""Where a source is cut into clips: inside shots, outside transitions, between utterances. Pure functions of times."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Quiet = Callable[[float], float]

_EXACT_S = 1e-6
_NEAR_S = 1e-3  # containers round to milliseconds
_AT_BREAK = 2.0  # steps between the last picture of one recording and the first of the next: packing, not a gap
_GRID_S = 0.2
_EVEN = 0.3  # how far from even pieces a quieter place is sought, as a share of a piece


class Span(NamedTuple):
    """[start_s, end_s) of a source, seconds."""

    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s


class Uncovered(NamedTuple):
    """A stretch in no clip, and why.

    "transition", "held" (one picture stays), "no_picture" (sound alone), "short_shot", "speech" (a divided utterance)
    or "remainder".
    """

    start_s: float
    end_s: float
    reason: str

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True)
class SegmentLimits:
    """`min_s` to `max_s` are the lengths of clips. A boundary moved to a pause keeps `pause_s` away from the speech.

    A shot that begins or ends inside an utterance loses up to `max_trim_s` there, to begin or end in a pause.
    Shots on both sides of a cut with a similarity of at least `merge_above` are one scene; None keeps every cut.
    """

    min_s: float = 2.0
    max_s: float = 15.0
    pause_s: float = 0.1
    max_trim_s: float = 3.0
    merge_above: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.min_s <= self.max_s / 2:
            raise ValueError(
                f"min_s={self.min_s:g} must lie between 0 and half of max_s={self.max_s:g}, "
                "so that a shot longer than max_s can fall into two clips"
            )


def segment(
    duration_s: float,
    cuts: Sequence[float],
    transitions: Sequence[tuple[float, float]] = (),
    speech: Sequence[tuple[float, float]] = (),
    limits: SegmentLimits = SegmentLimits(),
    *,
    picture: tuple[float, float] | None = None,
    held: Sequence[tuple[float, float]] = (),
    similarities: Sequence[float] | None = None,
    quiet: Quiet | None = None,
) -> tuple[list[Span], list[Uncovered]]:
    """Clips in order, and all the rest with its reason; together they cover the source without overlap.

    No clip holds one of the `cuts` (times of new shots), any of a transition, of a picture that is `held`, or of the
    time before and after the `picture`, which lasts from 0 to `duration_s` unless told. Long shots fall into the fewest
    clips of about the same length. A boundary lies inside an utterance of `speech` only where no pause is in reach.
    `similarities` go with `cuts` and let shots be merged; `quiet(t)` is how much goes on at `t`, to choose among
    the places near an even split.
    """
    if similarities is not None and len(similarities) != len(cuts):
        raise ValueError(f"{len(similarities)} similarities for {len(cuts)} cuts: give one for each cut")
    talk = _merged(speech)
    merged = _merged_cuts(cuts, similarities, limits.merge_above)
    clips: list[Span] = []
    uncovered: list[Uncovered] = []
    kept_cuts = [cut for cut in cuts if cut not in merged]
    for shot, why_not in _shots(duration_s, kept_cuts, _excluded(duration_s, transitions, held, picture)):
        if why_not:
            uncovered.append(Uncovered(*shot, why_not))
            continue
        if shot.seconds < limits.min_s - _EXACT_S:
            uncovered.append(Uncovered(*shot, "short_shot"))
            continue
        kept = _trimmed(shot, talk, limits)
        splitter = _Splitter(talk, sorted(merged), limits, quiet)
        made, end_s = splitter.split(kept)
        clips += made
        edges = (
            (shot.start_s, kept.start_s, "speech"),
            (end_s, kept.end_s, "remainder"),
            (kept.end_s, shot.end_s, "speech"),
        )
        uncovered += [Uncovered(*edge) for edge in edges if edge[1] - edge[0] > _EXACT_S]
    return clips, uncovered


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
    moved = {span.start_s: _nearest_picture(times, span.start_s, step_s) for span in spans}
    made = [Span(moved[span.start_s], moved.get(span.end_s, span.end_s)) for span in spans]
    if any(after.seconds < limits.min_s - _NEAR_S <= before.seconds for after, before in zip(made, spans, strict=True)):
        return list(spans), list(uncovered)
    rest = [Uncovered(moved.get(u.start_s, u.start_s), moved.get(u.end_s, u.end_s), u.reason) for u in uncovered]
    return made, [span for span in rest if span.seconds > 0]


@dataclass(frozen=True)
class _Splitter:
    """Splits one shot after another; `inner_cuts` are merged ones, the best places to split a scene at."""

    talk: list[Span]
    inner_cuts: list[float]
    limits: SegmentLimits
    quiet: Quiet | None

    def split(self, shot: Span) -> tuple[list[Span], float]:
        """Clips of a shot, and where the last one ends."""
        clips: list[Span] = []
        at, limits = shot.start_s, self.limits
        while shot.end_s - at > limits.max_s + _EXACT_S:
            left = shot.end_s - at
            piece = left / -(-left // limits.max_s)
            allowed = Span(at + limits.min_s, min(at + limits.max_s, shot.end_s - limits.min_s))
            boundary = self._boundary(allowed, at + piece, _EVEN * piece)
            if boundary is None and (
                pauses := _pauses(Span(allowed.end_s, at + limits.max_s), self.talk, limits.pause_s)
            ):
                # What is left after this pause is too short for a clip, and all that has to go.
                return [*clips, Span(at, pauses[-1].end_s)], pauses[-1].end_s
            if boundary is None:
                boundary = min(max(at + piece, allowed.start_s), allowed.end_s)
            clips.append(Span(at, boundary))
            at = boundary
        return [*clips, Span(at, shot.end_s)], shot.end_s

    def _boundary(self, allowed: Span, wanted: float, slack: float) -> float | None:
        """A time in a pause, near `wanted`: at a merged cut if there is one, else where it is quiet."""
        pauses = _pauses(allowed, self.talk, self.limits.pause_s)
        if not pauses:
            return None
        inner = [cut for cut in self.inner_cuts if any(a <= cut <= b for a, b in pauses)]
        if inner:
            return min(inner, key=lambda cut: abs(cut - wanted))
        nearest = min((min(max(wanted, a), b) for a, b in pauses), key=lambda time: abs(time - wanted))
        if self.quiet is None:
            return nearest
        quiet = self.quiet
        near = [time for pause in pauses for time in _grid(pause) if abs(time - wanted) <= slack]
        return min([nearest, *near], key=lambda time: (quiet(time), abs(time - wanted)))


def _merged_cuts(cuts: Sequence[float], similarities: Sequence[float] | None, merge_above: float | None) -> set[float]:
    if similarities is None or merge_above is None:
        return set()
    return {cut for cut, similarity in zip(cuts, similarities, strict=True) if similarity >= merge_above}


def _excluded(
    duration_s: float,
    transitions: Sequence[tuple[float, float]],
    held: Sequence[tuple[float, float]],
    picture: tuple[float, float] | None,
) -> list[Uncovered]:
    """What no clip may hold, in order and without overlap; where two overlap, the one that weighs more tells why."""
    first_s, last_s = picture or (0.0, duration_s)
    found: list[Uncovered] = []
    for reason, spans in (
        ("no_picture", [(0.0, first_s), (last_s, duration_s)]),
        ("held", held),
        ("transition", transitions),
    ):
        for span in _merged(spans):
            rest = [Span(max(0.0, span.start_s), min(duration_s, span.end_s))]
            for other in found:
                rest = [piece for part in rest for piece in _without(part, other)]
            found += [Uncovered(*part, reason) for part in rest if part.seconds > _EXACT_S]
    return sorted(found)


def _without(span: Span, other: Uncovered) -> list[Span]:
    """What is left of `span` on both sides of `other`."""
    sides = [Span(span.start_s, min(span.end_s, other.start_s)), Span(max(span.start_s, other.end_s), span.end_s)]
    return [side for side in sides if side.seconds > 0]


def _shots(duration_s: float, cuts: Sequence[float], excluded: Sequence[Uncovered]) -> list[tuple[Span, str]]:
    """The whole source as spans in order, each with why it can be in no clip, or "" where it can."""
    edges = {0.0, duration_s, *(edge for span in excluded for edge in (span.start_s, span.end_s))}
    edges |= {cut for cut in cuts if 0 < cut < duration_s and not any(a < cut < b for a, b, _ in excluded)}
    reasons = {span.start_s: span.reason for span in excluded}
    return [(Span(a, b), reasons.get(a, "")) for a, b in pairwise(sorted(edges))]


def _trimmed(shot: Span, talk: list[Span], limits: SegmentLimits) -> Span:
    """The shot without the utterances that its edges divide, as far as that costs little and leaves a clip."""
    start_s, end_s = shot
    for pause in _pauses(shot, talk, limits.pause_s)[:1]:
        if _divides(talk, start_s) and pause.start_s - start_s <= limits.max_trim_s:
            start_s = pause.start_s
    for pause in _pauses(shot, talk, limits.pause_s)[-1:]:
        if _divides(talk, end_s) and end_s - pause.end_s <= limits.max_trim_s:
            end_s = pause.end_s
    # Where both edges cannot move, moving one is still better than none.
    for option in (Span(start_s, end_s), Span(start_s, shot.end_s), Span(shot.start_s, end_s)):
        if option.seconds >= limits.min_s:
            return option
    return shot


def _pauses(within: Span, talk: list[Span], pause_s: float) -> list[Span]:
    """Stretches of `within` free of speech, `pause_s` away from it where there is any such, else closer."""
    return _free(within, talk, pause_s) or _free(within, talk, 0.0)


def _free(within: Span, talk: list[Span], margin_s: float) -> list[Span]:
    """Stretches of `within` at least `margin_s` from speech; of a pause shorter than two margins, its middle."""
    found = []
    for end_of_last, start_of_next in zip(
        [float("-inf"), *(span.end_s for span in talk)], [*(span.start_s for span in talk), float("inf")], strict=True
    ):
        margin = min(margin_s, (start_of_next - end_of_last) / 2)
        start_s, end_s = max(within.start_s, end_of_last + margin), min(within.end_s, start_of_next - margin)
        if start_s <= end_s:
            found.append(Span(start_s, end_s))
    return found


def _divides(talk: list[Span], time_s: float) -> bool:
    return any(a < time_s < b for a, b in talk)


def _grid(span: Span) -> list[float]:
    return [span.start_s + n * _GRID_S for n in range(int(span.seconds / _GRID_S) + 1)]


def _merged(spans: Sequence[tuple[float, float]]) -> list[Span]:
    """In order, and overlapping or touching ones as one."""
    merged: list[Span] = []
    for start_s, end_s in sorted((a, b) for a, b in spans if b > a):
        if merged and start_s <= merged[-1].end_s:
            merged[-1] = Span(merged[-1].start_s, max(merged[-1].end_s, end_s))
        else:
            merged.append(Span(start_s, end_s))
    return merged


def _nearest_picture(times: NDArray[np.float64], time_s: float, step_s: float) -> float:
    after = int(np.searchsorted(times, time_s))
    near = min(times[max(0, after - 1) : after + 1], key=lambda other: abs(other - time_s), default=time_s)
    return float(near) if _NEAR_S < abs(near - time_s) <= step_s / 2 + _NEAR_S else time_s
