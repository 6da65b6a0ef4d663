"""Where the elements of a parameter lie among ranks.

ZeRO-3 flattens a parameter of n elements and gives each of W ranks ceil(n / W) of them, the last ones padded. A
checkpoint keeps these pieces as they are; a reader at another world size takes the elements it needs from the pieces
that hold them, so a change of world size needs no conversion.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """Elements [start, stop) of a rank's piece, which come first in, or go to, `at` of the reader's piece."""

    rank: int
    start: int
    stop: int
    at: int


def piece_size(numel: int, world: int) -> int:
    """Elements that every rank holds of a parameter, padding included."""
    return -(-numel // world)


def bounds(numel: int, rank: int, world: int) -> tuple[int, int]:
    """[start, stop) of the flat parameter that a rank holds; empty on ranks that hold only padding."""
    size = piece_size(numel, world)
    return min(rank * size, numel), min((rank + 1) * size, numel)


def spans(numel: int, start: int, stop: int, world: int) -> list[Span]:
    """Which pieces of `world` ranks hold the elements [start, stop) of a flat parameter, in order."""
    size = piece_size(numel, world)
    found = []
    position = start
    while position < stop:
        rank = position // size
        end = min((rank + 1) * size, stop)
        found.append(Span(rank, position - rank * size, end - rank * size, position - start))
        position = end
    return found
