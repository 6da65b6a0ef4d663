"""The fine stage of Video Sparse Attention by gathering key cubes: plain PyTorch, differentiable on any device."""

import torch
import torch.nn.functional as F
from torch import Tensor

GATHERED_VALUES = 2**27
"""Keys (and as many values) copied at once: query cubes are worked through in groups of this much, 512 MiB in fp32."""


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
    cubes, tokens, width = q.shape[2:]
    keys = selected.shape[-1] * tokens + rest_k.shape[2]
    group = max(GATHERED_VALUES // (q.shape[0] * q.shape[1] * keys * width), 1)
    parts = [
        _attend_group(q[:, :, at : at + group], k, v, selected[:, :, at : at + group], valid, rest_k, rest_v, rest_mask)
        for at in range(0, cubes, group)
    ]
    return torch.cat(parts, 2) if len(parts) > 1 else parts[0]


def _attend_group(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    selected: Tensor,
    valid: Tensor | None,
    rest_k: Tensor,
    rest_v: Tensor,
    rest_mask: Tensor | None,
) -> Tensor:
    batch, heads, cubes, tokens, width = q.shape
    gathered_k, gathered_v = (_gather_cubes(part, selected) for part in (k, v))
    if rest_k.shape[2]:
        spread = (batch, heads, cubes, rest_k.shape[2], width)
        gathered_k = torch.cat((gathered_k, rest_k[:, :, None].expand(spread)), 3)
        gathered_v = torch.cat((gathered_v, rest_v[:, :, None].expand(spread)), 3)
    mask = _key_mask(selected, valid, tokens, rest_k.shape[2], rest_mask)
    # Cubes become the batch: the fused kernel runs one small dense attention per (sample, head, query cube).
    out = F.scaled_dot_product_attention(
        q.flatten(0, 1), gathered_k.flatten(0, 1), gathered_v.flatten(0, 1), attn_mask=mask
    )
    return out.unflatten(0, (batch, heads))


def _gather_cubes(x: Tensor, selected: Tensor) -> Tensor:
    """Cubes (B, heads, cubes, tokens, d) at (B, heads, Q, kept) to (B, heads, Q, kept * tokens, d)."""
    batch, heads, cubes, tokens, width = x.shape
    first = torch.arange(batch * heads, device=x.device).mul(cubes).view(batch, heads, 1, 1)
    rows = x.reshape(batch * heads * cubes, tokens * width).index_select(0, (selected + first).flatten())
    return rows.view(batch, heads, selected.shape[2], selected.shape[3] * tokens, width)


def _key_mask(
    selected: Tensor, valid: Tensor | None, tokens: int, rest: int, rest_mask: Tensor | None
) -> Tensor | None:
    """(B * heads, Q, 1, keys) bool for the fused kernel, None where every key counts."""
    if valid is None and rest_mask is None:
        return None
    batch, heads, cubes, kept = selected.shape
    lead = (batch, heads, cubes)
    if valid is None:
        grid = selected.new_ones((*lead, kept * tokens), dtype=torch.bool)
    else:
        grid = valid[selected].flatten(3)
    if rest_mask is None:
        outside = selected.new_ones((*lead, rest), dtype=torch.bool)
    else:
        outside = rest_mask[:, None, None].expand(*lead, rest)
    return torch.cat((grid, outside), -1).flatten(0, 1)[:, :, None]
