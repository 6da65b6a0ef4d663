"""A picture too large for one pass: overlapping tiles that are made apart and faded into each other, without seams."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

Span = tuple[int, int]
"""First row or column, and the one after the last."""


@dataclass(frozen=True)
class Tiles:
    """Tiles of one size, or smaller where the whole is, over the last two dimensions of a tensor.

    Neighbours share `overlap` rows or columns or more. Within the last `overlap` of a tile the next one takes over.
    """

    rows: tuple[Span, ...]
    columns: tuple[Span, ...]
    overlap: tuple[int, int]

    @classmethod
    def over(cls, size: tuple[int, int], tile: tuple[int, int], overlap: tuple[int, int]) -> "Tiles":
        """Of a whole of `size` (height, width). Raises ValueError where more than half of a tile would be shared."""
        for most, shared in zip(tile, overlap, strict=True):
            if not 0 < 2 * shared <= most:
                raise ValueError(f"tiles of {tile} that share {overlap}: at least 1, at most half of a tile is shared")
        rows, columns = (_spans(*each) for each in zip(size, tile, overlap, strict=True))
        return cls(rows, columns, overlap)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.rows) * len(self.columns)

    def times(self, factor: int) -> "Tiles":
        """The same tiles of a whole that is `factor` times as large."""
        rows, columns = (tuple((a * factor, b * factor) for a, b in spans) for spans in (self.rows, self.columns))
        return Tiles(rows, columns, (self.overlap[0] * factor, self.overlap[1] * factor))

    def cut(self, whole: Tensor) -> list[Tensor]:
        """Views of (..., H, W), row by row."""
        return [whole[..., top:bottom, left:right] for top, bottom, left, right in self._places()]

    def map(self, make: Callable[[Tensor], Tensor], whole: Tensor) -> Tensor:
        """`make` of every tile, joined; one tile alone is given as it is."""
        return make(whole) if self.count == 1 else self.join([make(part) for part in self.cut(whole)])

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The whole from its tiles (..., h, w), in the order of `cut`; weights of all that cover a place sum to 1."""
        shape = (*parts[0].shape[:-2], self.rows[-1][1], self.columns[-1][1])
        whole = torch.zeros(shape, dtype=torch.float32, device=parts[0].device)
        down, across = _weights(self.rows, self.overlap[0]), _weights(self.columns, self.overlap[1])
        weights = (row[:, None] * column for row in down for column in across)
        for part, weight, (top, bottom, left, right) in zip(parts, weights, self._places(), strict=True):
            whole[..., top:bottom, left:right] += part.float() * weight.to(whole.device)
        return whole.to(parts[0].dtype)

    def _places(self) -> Iterator[tuple[int, int, int, int]]:
        return ((*row, *column) for row in self.rows for column in self.columns)


def _spans(size: int, tile: int, overlap: int) -> tuple[Span, ...]:
    """From the start, `tile - overlap` apart; the last one ends with the whole and is as long as the others."""
    if size <= tile:
        return ((0, size),)
    starts = [*range(0, size - tile, tile - overlap), size - tile]
    return tuple((start, start + tile) for start in starts)


def _weights(spans: Sequence[Span], overlap: int) -> list[Tensor]:
    """What each span counts at its places: 1, but falling within its last `overlap` as the next one's rises."""
    ramp = (torch.arange(overlap, dtype=torch.float32) + 0.5) / overlap
    weights = [torch.ones(stop - start) for start, stop in spans]
    for (before, after), (first, second) in zip(pairwise(spans), pairwise(weights), strict=True):
        taken_over = before[1] - after[0]
        first[-overlap:] *= 1 - ramp
        second[:taken_over] = torch.cat((torch.zeros(taken_over - overlap), ramp))
    return weights
