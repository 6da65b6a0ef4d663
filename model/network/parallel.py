"""One video sequence on several ranks (Ulysses, arXiv 2309.14509): what the layers exchange around attention.

Each rank holds a share of the video's tokens and all of text and audio, which are short. Attention wants whole
sequences, and is independent per head: tokens are exchanged for heads before it, and back after it. Nothing here
communicates by itself: `SequenceRanks` is what a process group must offer.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class SequenceRanks(Protocol):
    """The ranks that share a sequence. A dimension of n is shared in order, in shares that differ by at most one.

    Every rank calls the same methods in the same order, backward too. Gradients are those of the sum of all ranks'
    losses, so the backward pass of `join` adds up what the ranks bring.
    """

    @property
    def size(self) -> int: ...

    def split(self, x: Tensor, dim: int) -> Tensor:
        """This rank's share of dimension `dim` of what all ranks hold alike."""

    def join(self, x: Tensor, dim: int, total: int) -> Tensor:
        """The whole of `total` along `dim` from every rank's share."""

    def exchange(self, x: Tensor, split: int, join: int, total: int) -> Tensor:
        """All-to-all: share out dimension `split` of this rank's x, and join the shares of `join`, `total` in all."""


@dataclass(frozen=True)
class Shards:
    """How `tokens` tokens lie on `ranks`; without ranks they lie here, and every method returns what it is given."""

    tokens: int = 0
    ranks: SequenceRanks | None = None

    def own(self, x: Tensor, dim: int = 0) -> Tensor:
        """This rank's tokens of all."""
        return x if self.ranks is None else self.ranks.split(x, dim)

    def own_of(self, first: int) -> int:
        """How many of the `first` tokens of all lie on this rank."""
        return first if self.ranks is None else int((self.ranks.split(torch.arange(self.tokens), 0) < first).sum())

    def whole(self, x: Tensor, dim: int) -> Tensor:
        """All tokens, of this rank's."""
        return x if self.ranks is None else self.ranks.join(x, dim, self.tokens)

    def to_heads(self, x: Tensor, alike: int = 0) -> Tensor:
        """(B, heads, own tokens + alike, d) to (B, own heads, all tokens + alike, d).

        `alike` tokens at the end are those that all ranks hold.
        """
        if self.ranks is None:
            return x
        own, rest = x.split((x.shape[2] - alike, alike), 2)
        heads = self.ranks.exchange(own, split=1, join=2, total=self.tokens)
        return torch.cat((heads, self.ranks.split(rest, 1)), 2) if alike else heads

    def to_tokens(self, x: Tensor, alike: int = 0) -> Tensor:
        """The inverse of `to_heads`."""
        if self.ranks is None:
            return x
        whole, rest = x.split((self.tokens, alike), 2)
        heads = x.shape[1] * self.ranks.size
        own = self.ranks.exchange(whole, split=2, join=1, total=heads)
        return torch.cat((own, self.ranks.join(rest, 1, heads)), 2) if alike else own

    def own_heads(self, x: Tensor) -> Tensor:
        """(B, heads, M, d) that all ranks hold, to (B, own heads, M, d)."""
        return x if self.ranks is None else self.ranks.split(x, 1)

    def all_heads(self, x: Tensor) -> Tensor:
        """The inverse of `own_heads`."""
        return x if self.ranks is None else self.ranks.join(x, 1, x.shape[1] * self.ranks.size)


def check_ranks(heads: int, ranks: int) -> None:
    """Raises ValueError where the heads of a network cannot be dealt out evenly."""
    if heads % ranks:
        fitting = [count for count in range(1, heads + 1) if heads % count == 0]
        raise ValueError(
            f"{heads} heads cannot be dealt out to {ranks} ranks: share sequences among a number of ranks that is in "
            f"{fitting}"
        )


UNSHARDED = Shards()
"""Of a sequence that every rank holds whole."""
