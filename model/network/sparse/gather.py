"""The fine stage of Video Sparse Attention by gathering key cubes: plain PyTorch, differentiable on any device.

A few query cubes are worked through at a time, forward and again backward, so that gathered keys stay in the cache
and nothing of the size of the attention matrix is kept for the backward pass: it recomputes the probabilities.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

GROUP_SCORES = 2**19
"""Scores computed at once: 2 MiB in float32, what a core's caches hold."""


def gather_fine(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    selected: Tensor,
    valid: Tensor | None,
    rest_k: Tensor,
    rest_v: Tensor,
    rest_mask: Tensor | None,
) -> Tensor:
    """Each query cube attends to its `selected` key cubes and to every key of the rest.

    q, k, v: (B, heads, cubes, tokens, d). selected: (B, heads, cubes, kept) cube indices. valid: (cubes, tokens) bool
    or None for all. rest_k, rest_v: (B, heads, R, d); rest_mask (B, R) bool or None. Returns q's shape.
    """
    out: Tensor = _GatheredAttention.apply(q, k, v, rest_k, rest_v, selected, valid, rest_mask)  # type: ignore[no-untyped-call]  # torch's own has no annotation
    return out


class _Group(NamedTuple):
    """Some query cubes of one sample and head."""

    at: tuple[int, int, slice]
    selected: Tensor
    """(cubes of the group, kept)."""
    mask: Tensor | None
    """(cubes of the group, 1, keys) bool, or None where every key counts."""


class _GatheredAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rest_k: Tensor,
        rest_v: Tensor,
        selected: Tensor,
        valid: Tensor | None,
        rest_mask: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(q, k, v, rest_k, rest_v, selected, valid, rest_mask)
        out = torch.empty_like(q)
        for group in _groups(q, rest_k, selected, valid, rest_mask):
            probabilities = _probabilities(q[group.at], _gather(k, rest_k, group), group.mask)
            out[group.at] = probabilities @ _gather(v, rest_v, group)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, rest_k, rest_v, selected, valid, rest_mask = ctx.saved_tensors
        (grad_out,) = grads
        grad_q = torch.empty_like(q)
        grad_k, grad_v, grad_rest_k, grad_rest_v = (
            torch.zeros(x.shape, dtype=torch.float32, device=x.device) for x in (k, v, rest_k, rest_v)
        )
        for group in _groups(q, rest_k, selected, valid, rest_mask):
            queries, grad = q[group.at], grad_out[group.at]
            keys = _gather(k, rest_k, group)
            probabilities = _probabilities(queries, keys, group.mask)
            _add_back(probabilities.mT @ grad, grad_v, grad_rest_v, group)
            grad_probabilities = (grad @ _gather(v, rest_v, group).mT).float()
            weighted = grad_probabilities * probabilities
            grad_scores = weighted.sub_(probabilities * weighted.sum(-1, keepdim=True)).mul_(q.shape[-1] ** -0.5)
            grad_scores = grad_scores.to(q.dtype)
            grad_q[group.at] = grad_scores @ keys
            _add_back(grad_scores.mT @ queries, grad_k, grad_rest_k, group)
        to = q.dtype
        return grad_q, grad_k.to(to), grad_v.to(to), grad_rest_k.to(to), grad_rest_v.to(to), None, None, None


def _groups(
    q: Tensor, rest_k: Tensor, selected: Tensor, valid: Tensor | None, rest_mask: Tensor | None
) -> Iterator[_Group]:
    batch, heads, cubes, tokens, _ = q.shape
    keys = selected.shape[-1] * tokens + rest_k.shape[2]
    size = max(GROUP_SCORES // (tokens * keys), 1)
    for sample in range(batch):
        outside = rest_mask[sample] if rest_mask is not None else None
        for head in range(heads):
            for start in range(0, cubes, size):
                at = (sample, head, slice(start, start + size))
                yield _Group(at, selected[at], _key_mask(selected[at], valid, outside, tokens, rest_k.shape[2]))


def _gather(grid: Tensor, rest: Tensor, group: _Group) -> Tensor:
    """The selected cubes' tokens of each query cube, then the rest: (cubes of the group, keys, d)."""
    sample, head, _ = group.at
    queries, kept = group.selected.shape
    cubes, tokens, width = grid.shape[2:]
    rows = grid[sample, head].reshape(cubes, tokens * width).index_select(0, group.selected.flatten())
    gathered = rows.view(queries, kept * tokens, width)
    if not rest.shape[2]:
        return gathered
    return torch.cat((gathered, rest[sample, head].expand(queries, -1, -1)), 1)


def _add_back(grad: Tensor, grid: Tensor, rest: Tensor, group: _Group) -> None:
    """The reverse of `_gather`: sum gradients (cubes of the group, keys, d) into `grid` and `rest`."""
    sample, head, _ = group.at
    queries, kept = group.selected.shape
    cubes, tokens, width = grid.shape[2:]
    split = kept * tokens
    rows = grad[:, :split].reshape(queries * kept, tokens * width).to(grid.dtype)
    grid[sample, head].view(cubes, tokens * width).index_add_(0, group.selected.flatten(), rows)
    if rest.shape[2]:
        rest[sample, head] += grad[:, split:].sum(0)


def _probabilities(queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(d)), the softmax in float32."""
    scores = (queries * queries.shape[-1] ** -0.5) @ keys.mT
    if mask is not None:
        scores = scores.masked_fill_(~mask, float("-inf"))
    made: Tensor = scores.softmax(-1, dtype=torch.float32).to(queries.dtype)
    return made


def _key_mask(
    selected: Tensor, valid: Tensor | None, rest_mask: Tensor | None, tokens: int, rest: int
) -> Tensor | None:
    if valid is None and rest_mask is None:
        return None
    queries, kept = selected.shape
    mask = torch.ones(queries, 1, kept * tokens + rest, dtype=torch.bool, device=selected.device)
    if valid is not None:
        mask[:, 0, : kept * tokens] = valid[selected].flatten(1)
    if rest_mask is not None:
        mask[:, :, kept * tokens :] = rest_mask
    return mask
