"""One clock for a file whose stamps restart or leap, as they do where captures were joined.

A joined file starts its stamps anew with every piece, in picture and sound at about the same place. Each piece is moved
as a whole, so that its picture and sound stay together, to where both have ended before it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise

from av.packet import Packet
from av.stream import Stream

from skyreels.media.facts import ClockShift

# Decoding stamps never go back within a piece; presentation stamps do, by as many pictures as are reordered.
_BACK_S, _BACK_PRESENTED_S = 0.1, 1.0
# A longer leap of a broadcast clock is another recording, not a pause; elsewhere stamps mean what they say.
_LEAP_S = 600.0
_BROADCAST = frozenset({"mpegts", "mpegps", "flv"})
# Their stamps are sums of durations, or counts.
_NEVER_RESTART = frozenset({"mp4", "avi", "wav", "flac", "aiff", "gif", "png", "webp"})


@dataclass
class Stamps:
    """What a demux saw of one stream, in file order: seconds, and each packet's place among those of all streams."""

    start_s: list[float] = field(default_factory=list)
    end_s: list[float] = field(default_factory=list)
    decoded_s: list[float | None] = field(default_factory=list)
    place: list[int] = field(default_factory=list)

    def add(self, start_s: float, end_s: float, decoded_s: float | None, place: int) -> None:
        self.start_s.append(start_s)
        self.end_s.append(end_s)
        self.decoded_s.append(decoded_s)
        self.place.append(place)

    def breaks(self, leaps: bool) -> list[int]:
        """The packets at which the stamps restart, or with `leaps` leap ahead."""
        found = []
        for index, (before, after) in enumerate(pairwise(zip(self.decoded_s, self.start_s, strict=True)), start=1):
            known = before[0] is not None and after[0] is not None
            step = (after[0] or 0.0) - (before[0] or 0.0) if known else after[1] - before[1]
            if step < -(_BACK_S if known else _BACK_PRESENTED_S) or (leaps and step > _LEAP_S):
                found.append(index)
        return found

    def span(self, first: int, last: int | None) -> tuple[float, float]:
        """(earliest start, latest end) of the packets first <= n < last."""
        return min(self.start_s[first:last]), max(self.end_s[first:last])


def shifts(tracks: Sequence[Stamps], container: str) -> tuple[list[tuple[ClockShift, ...]], tuple[float, ...]]:
    """What brings each of one or two streams onto one clock, and the times on it at which pieces meet."""
    if container in _NEVER_RESTART:
        return [() for _ in tracks], ()
    starts = _pieces(tracks, container in _BROADCAST)
    found: list[list[ClockShift]] = [[] for _ in tracks]
    ends: list[float | None] = [None for _ in tracks]
    moved = [0.0 for _ in tracks]
    meets: list[float] = []
    for number, piece in enumerate(starts):
        spans = {i: tracks[i].span(first, _next(starts, number, i)) for i, first in piece.items()}
        if number:
            shift_s = max(((ends[i] or 0.0) - start_s for i, (start_s, _) in spans.items()), default=0.0)
            for i in spans:
                moved[i] = shift_s
                found[i].append(ClockShift(packet=piece[i], seconds=shift_s))
            meets.append(min(start_s + shift_s for start_s, _ in spans.values()))
        for i, (_, end_s) in spans.items():
            ends[i] = max(ends[i] or 0.0, end_s + moved[i])
    return [tuple(some) for some in found], tuple(meets)


def on_one_clock(
    packets: Iterable["Packet[Stream]"], moves: Sequence[ClockShift], base: Fraction | None
) -> Iterator["Packet[Stream]"]:
    """`packets` of one stream from the file's beginning, with their stamps moved. Empty packets are not counted."""
    if not moves or base is None:
        yield from packets
        return
    left = list(moves)
    ticks = count = 0
    for packet in packets:
        if packet.size:
            while left and count >= left[0].packet:
                ticks = round(left.pop(0).seconds / base)
            count += 1
            packet.pts = None if packet.pts is None else packet.pts + ticks
            packet.dts = None if packet.dts is None else packet.dts + ticks
        yield packet


def _pieces(tracks: Sequence[Stamps], leaps: bool) -> list[dict[int, int]]:
    """Per piece of the file, the first packet of each stream that begins one there, in file order."""
    breaks = [track.breaks(leaps) for track in tracks]
    if len(tracks) == 2:
        breaks = [breaks[0], _with_silent_breaks(tracks, breaks)]
    pieces = [({i: 0 for i, track in enumerate(tracks) if track.place and 0 not in breaks[i]}, -1)]
    partners = _partners(tracks, breaks) if len(tracks) == 2 else {}
    for i, some in enumerate(breaks):
        for first in some:
            if i == 0 and first in partners:
                pieces.append(({0: first, 1: partners[first]}, tracks[0].place[first]))
            elif i == 0 or first not in partners.values():
                pieces.append(({i: first}, tracks[i].place[first]))
    return [piece for piece, _ in sorted(pieces, key=lambda piece: piece[1])]


def _with_silent_breaks(tracks: Sequence[Stamps], breaks: Sequence[list[int]]) -> list[int]:
    """The second stream's breaks, and those that do not show in it: it ended early before one, or begins after it.

    Its next packet then belongs to the side of the break whose stamps are nearer.
    """
    first, second = tracks
    found = set(breaks[1])
    partnered = _partners(tracks, breaks)
    for index in breaks[0]:
        after = next((n for n, place in enumerate(second.place) if place > first.place[index - 1]), None)
        if index in partnered or after is None:
            continue
        stamp_s, old_s, new_s = second.start_s[after], first.start_s[index - 1], first.start_s[index]
        if abs(stamp_s - new_s) < abs(stamp_s - old_s):
            found.add(after)
    return sorted(found)


def _partners(tracks: Sequence[Stamps], breaks: Sequence[list[int]]) -> dict[int, int]:
    """Breaks of the first stream with the break of the second that lies nearest in the file; each has one at most."""
    pairs: dict[int, int] = {}
    for second in breaks[1]:
        place = tracks[1].place[second]
        if not breaks[0]:
            break
        first = min(breaks[0], key=lambda n: abs(tracks[0].place[n] - place))
        known = pairs.get(first)
        if known is None or abs(tracks[1].place[known] - tracks[0].place[first]) > abs(place - tracks[0].place[first]):
            pairs[first] = second
    return pairs


def _next(pieces: Sequence[dict[int, int]], number: int, stream: int) -> int | None:
    """The packet at which the stream's next piece begins."""
    return next((piece[stream] for piece in pieces[number + 1 :] if stream in piece), None)
