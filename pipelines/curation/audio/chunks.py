"""Cutting long sound at pauses, and joining short sounds of one class. Plans only: spans and groups, no samples."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from pipelines.curation.audio.vad import Interval

CHUNK_S = 15.0
SHORTEST_S = 1.0


@dataclass(frozen=True)
class Piece:
    """A short sound that may be joined with others: anything that names it, its class and its length."""

    key: Hashable
    label: str
    duration_s: float


def chunk_spans(
    start_s: float,
    end_s: float,
    sounding: Sequence[Interval],
    longest_s: float = CHUNK_S,
    shortest_s: float = SHORTEST_S,
) -> list[Interval]:
    """Cut `[start_s, end_s)` into spans of at most `longest_s` that follow one another without gap or overlap.

    `sounding` are the disjoint rising intervals not to be cut (speech, or all sound); seconds on one clock. Each cut
    falls in the middle of the last pause that leaves at least half of `longest_s` and `shortest_s` after it; where
    the sound never pauses there, the chunk is as long as it may be, but never so that less than `shortest_s` is left.
    """
    if longest_s < 2 * shortest_s or shortest_s <= 0:
        raise ValueError(f"chunks of {shortest_s} to {longest_s} s: the longest must be at least twice the shortest")
    pauses = _pauses(start_s, end_s, sounding)
    spans = []
    while end_s - start_s > longest_s:
        latest = min(start_s + longest_s, end_s - shortest_s)
        earliest = start_s + longest_s / 2
        fitting = [(max(a, earliest), min(b, latest)) for a, b in pauses if a < latest and b > earliest]
        cut = sum(fitting[-1]) / 2 if fitting else latest
        spans.append((start_s, cut))
        start_s = cut
    if end_s > start_s:
        spans.append((start_s, end_s))
    return spans


def join_groups(pieces: Sequence[Piece], longest_s: float = CHUNK_S, gap_s: float = 0.0) -> list[list[Piece]]:
    """Group neighbours in the list that share a class so that each group, with `gap_s` between, fits `longest_s`.

    Order is kept within a class and every piece is in exactly one group; a piece too long to share stays alone. The
    groups come in the order of their first pieces.
    """
    groups: list[list[Piece]] = []
    open_groups: dict[str, tuple[list[Piece], float]] = {}
    for piece in pieces:
        group, filled = open_groups.get(piece.label, ([], 0.0))
        if group and filled + gap_s + piece.duration_s <= longest_s:
            group.append(piece)
            open_groups[piece.label] = (group, filled + gap_s + piece.duration_s)
            continue
        groups.append([piece])
        open_groups[piece.label] = (groups[-1], piece.duration_s)
    return groups


def _pauses(start_s: float, end_s: float, sounding: Sequence[Interval]) -> list[Interval]:
    edges = [start_s, *(edge for interval in sounding for edge in interval), end_s]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b > a]
