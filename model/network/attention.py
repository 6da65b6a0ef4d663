"""Attention: projections with QK norm, and one call into PyTorch's fused kernel."""

from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from model.network.parallel import UNSHARDED, Shards
from model.network.rope import RotaryTable, rotate

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of an attention, (B, heads, M, head_width) each."""


class HeadNorm(nn.LayerNorm):
    """QK norm of one head, with a gain and no bias: fused both ways on any device, as RMS norm is not.

    Autocast runs it in float32, so callers cast back.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6, bias=False)


class SelfProjection(nn.Module):
    """One stream's fused QKV and output projection, QK norm per head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = HeadNorm(width // heads)
        self.k_norm = HeadNorm(width // heads)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, width) to q, k, v of (B, N, heads, head_width)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        return self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype), v


class CrossAttention(nn.Module):
    """Queries from one sequence, keys and values from another, QK norm per head, optional rotation of both."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.q_norm = HeadNorm(width // heads)
        self.k_norm = HeadNorm(width // heads)
        self.out = nn.Linear(width, width)

    def keys_values(self, context: Tensor, rotary: RotaryTable | None = None) -> KeysValues:
        """(B, M, width) to keys and values (B, heads, M, head_width); text's are reused over all sampling steps."""
        k, v = self.kv(context).unflatten(-1, (2, self.heads, -1)).unbind(2)
        k = self.k_norm(k).to(v.dtype).transpose(1, 2)
        return (rotate(k, rotary) if rotary else k), v.transpose(1, 2)

    def forward(
        self,
        x: Tensor,
        keys_values: KeysValues,
        key_mask: Tensor | None = None,
        rotary: RotaryTable | None = None,
        key_shards: Shards = UNSHARDED,
    ) -> Tensor:
        """(B, N, width) queries to (B, N, width); `key_mask` (B, M) is True where a key exists.

        Where the keys lie on several ranks, `key_shards` tells how; all ranks then hold the same queries.
        """
        keys, values = map(key_shards.to_heads, keys_values)
        q = self.q_norm(self.q(x).unflatten(-1, (self.heads, -1))).to(keys.dtype).transpose(1, 2)
        q = key_shards.own_heads(rotate(q, rotary) if rotary else q)
        out = key_shards.all_heads(attend(q, keys, values, key_mask))
        made: Tensor = self.out(out.transpose(1, 2).flatten(2))
        return made


TRAINS_IN_FP32_ON_CPU = True
"""In low precision the CPU's backward pass takes eight times as long, and more than all matrix products."""


def attend(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v over (B, heads, N, d); `key_mask` (B, M) is True where a key exists."""
    mask = key_mask[:, None, None] if key_mask is not None else None
    if TRAINS_IN_FP32_ON_CPU and q.device.type == "cpu" and torch.is_grad_enabled() and q.dtype != torch.float32:
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


ATTENTIONS = (
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "skyreels::vsa_fine",
)
"""What attention becomes on each device, dense or sparse."""


def keeping_attention() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For `torch.utils.checkpoint`: keep what attention gives, make all else again in the backward pass."""

    def policy(context: object, operation: OpOverload, *given: object, **named: object) -> CheckpointPolicy:
        kept = operation.name().partition(".")[0] in ATTENTIONS
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

    contexts: tuple[AbstractContextManager[None], AbstractContextManager[None]]
    contexts = create_selective_checkpoint_contexts(policy)  # type: ignore[no-untyped-call]  # torch's has no annotation
    return contexts


def merge_masks(parts: list[tuple[Tensor | None, int]], batch: int, device: torch.device) -> Tensor | None:
    """One (B, sum of lengths) mask of (mask or None for all, length) parts; None where every part is None."""
    if all(mask is None for mask, _ in parts):
        return None
    full = [mask if mask is not None else torch.ones(batch, n, dtype=torch.bool, device=device) for mask, n in parts]
    return torch.cat([mask.bool() for mask in full], 1)
