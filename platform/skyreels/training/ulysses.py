"""Ranks that share a sequence (Ulysses, arXiv 2309.14509): which they are, and what they exchange, differentiably.

    model.share_sequences(sequence_ranks(4))        # in Trainable.build, on every rank: 0-3 and 4-7 of 8

Every rank of a group runs the same slot and takes the whole loss of it. All backward passes are exact adjoints, so
the gradients of the group's ranks add up to those of `size` times the loss: the average over all ranks, which is what
DeepSpeed takes, is the average over data-parallel ranks of the gradient that one rank alone would have found.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def sequence_ranks(size: int) -> "UlyssesRanks | None":
    """The group of `size` neighbouring ranks that this rank shares sequences with; None for a size of 1.

    The first call for a size makes the process groups: every rank of the world must call it.
    """
    return _ranks(size, dist.group.WORLD) if size > 1 else None


@cache
def _ranks(size: int, world: dist.ProcessGroup) -> "UlyssesRanks":
    workers, rank = dist.get_world_size(world), dist.get_rank(world)
    if workers % size:
        raise ValueError(f"{workers} workers do not form groups of {size}: set workers to a multiple of it")
    groups = [dist.new_group(list(range(first, first + size))) for first in range(0, workers, size)]
    return UlyssesRanks(groups[rank // size])


class UlyssesRanks:
    """`split`, `join` and `exchange` over a process group, each with its exact adjoint as backward pass.

    A dimension of n is shared in rank order, and the first n % size ranks hold one more than the others. All ranks of
    the group must call the same methods in the same order with tensors of matching shapes.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    def shares(self, total: int) -> list[int]:
        """How many of `total` each rank holds."""
        each, over = divmod(total, self.size)
        return [each + (rank < over) for rank in range(self.size)]

    def split(self, x: Tensor, dim: int) -> Tensor:
        """This rank's share of dimension `dim` of an `x` that all ranks hold. Backward: zeros outside of it."""
        made: Tensor = x.split(self.shares(x.shape[dim]), dim)[self.rank]
        return made

    def join(self, x: Tensor, dim: int, total: int) -> Tensor:
        """The whole of `total` along `dim` from every rank's share. Backward: the sum of all ranks' gradients."""
        out: Tensor = _Join.apply(x, dim, total, self)  # type: ignore[no-untyped-call]  # torch's own has no annotation
        return out

    def exchange(self, x: Tensor, split: int, join: int, total: int) -> Tensor:
        """All-to-all: dimension `split` is shared out, and the shares of `join` become its `total`.

        Backward: the same with both swapped.
        """
        out: Tensor = _Exchange.apply(x, split, join, total, self)  # type: ignore[no-untyped-call]  # torch's own has no annotation
        return out

    def any(self, flag: bool) -> bool:
        """Whether one of the ranks says so, which all of them hear alike."""
        said = torch.tensor([int(flag)], device="cuda" if dist.get_backend(self.group) == "nccl" else "cpu")
        dist.all_reduce(said, dist.ReduceOp.MAX, group=self.group)
        return bool(said)


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, split: int, join: int, total: int, ranks: UlyssesRanks) -> Tensor:
        ctx.back = (join, split, x.shape[split], ranks)
        return _exchange(x, split, join, total, ranks)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _exchange(grads[0], *ctx.back), None, None, None, None


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, total: int, ranks: UlyssesRanks) -> Tensor:
        ctx.dim, ctx.ranks = dim, ranks
        shares = ranks.shares(total)
        pieces = _swap([x] * ranks.size, [_resized(x, {dim: share}) for share in shares], ranks.group)
        return torch.cat(pieces, dim)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        parts = grad.split(ctx.ranks.shares(grad.shape[ctx.dim]), ctx.dim)
        shape = parts[ctx.ranks.rank].shape
        pieces = _swap(parts, [shape] * ctx.ranks.size, ctx.ranks.group)
        return torch.stack(pieces).sum(0), None, None, None


def _exchange(x: Tensor, split: int, join: int, total: int, ranks: UlyssesRanks) -> Tensor:
    parts = x.split(ranks.shares(x.shape[split]), split)
    own = parts[ranks.rank].shape[split]
    pieces = _swap(parts, [_resized(x, {split: own, join: share}) for share in ranks.shares(total)], ranks.group)
    return torch.cat(pieces, join)


def _swap(parts: Sequence[Tensor], shapes: Sequence[torch.Size], group: dist.ProcessGroup) -> list[Tensor]:
    """Send `parts[i]` to rank i, and return what rank i sent, of `shapes[i]`."""
    sent = torch.cat([part.reshape(-1) for part in parts])
    sizes = [shape.numel() for shape in shapes]
    received = sent.new_empty(sum(sizes))
    dist.all_to_all_single(received, sent, sizes, [part.numel() for part in parts], group=group)
    return [piece.view(shape) for piece, shape in zip(received.split(sizes), shapes, strict=True)]


def _resized(x: Tensor, sizes: dict[int, int]) -> torch.Size:
    return torch.Size(sizes.get(dim, size) for dim, size in enumerate(x.shape))
