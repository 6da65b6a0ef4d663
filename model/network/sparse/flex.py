"""The fine stage of Video Sparse Attention on compiled FlexAttention: only the selected blocks are computed.

Where Triton's kernels are not wanted: it masks all pairs of cubes, and compiles for every shape anew. On a GPU it has a
backward pass; on a CPU it is for inference. The selection also stands in the mask function: eager
FlexAttention ignores block indices, and would attend to everything without it.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

GPU_MODE = "max-autotune-no-cudagraphs"
"""Inductor's default tiles on Hopper are 128 tokens, which do not divide cubes of 64: it finds no kernel. Autotuning
tries smaller ones. A layer that is compiled around sparse attention must be compiled in this mode as well."""


SHAPES = 64
"""Shapes that a process may compile for. One more raises: eager FlexAttention would make every score of the clip."""


def flex_fine(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    selected: Tensor,
    valid: Tensor | None,
    rest_k: Tensor,
    rest_v: Tensor,
    rest_mask: Tensor | None,
) -> Tensor:
    """Each query cube attends to its `selected` key cubes and to every key of the rest; as `gather_fine`."""
    batch, _, cubes, tokens, _ = q.shape
    rest = rest_k.shape[2]
    spare = -rest % tokens
    keys, values = (
        torch.cat((grid.flatten(2, 3), F.pad(outside, (0, 0, 0, spare))), 2)
        for grid, outside in ((k, rest_k), (v, rest_v))
    )
    exists = _existing_keys(batch, cubes, tokens, rest, spare, valid, rest_mask, q.device)
    chosen = _chosen_blocks(selected, cubes, (rest + spare) // tokens)
    mask = _block_mask(chosen, exists, tokens)
    made: Tensor = _compiled(q.flatten(2, 3), keys, values, mask).unflatten(2, (cubes, tokens))
    return made


def _compiled(q: Tensor, keys: Tensor, values: Tensor, mask: BlockMask) -> Tensor:
    attention = compiled_flex_attention(q.device.type)
    if torch.compiler.is_compiling():  # the layer around it is compiled, under limits of its own
        made: Tensor = attention(q, keys, values, block_mask=mask)
        return made
    try:
        with torch._dynamo.config.patch(recompile_limit=SHAPES, fail_on_recompile_limit_hit=True):
            made = attention(q, keys, values, block_mask=mask)
    except torch._dynamo.exc.FailOnRecompileLimitHit as error:
        raise RuntimeError(
            f"FlexAttention was compiled for {SHAPES} shapes and queries of {tuple(q.shape)} beside {keys.shape[2]} "
            "keys need one more: keep to fewer sizes of clips and lengths of texts, or set sparse_kernel to triton or "
            "gather, which compile for none"
        ) from error
    return made


@cache
def compiled_flex_attention(device: str) -> Callable[..., Any]:
    """FlexAttention compiled once per kind of device, for static shapes: dynamic ones make its CPU kernel slow."""
    return torch.compile(flex_attention, dynamic=False, mode=GPU_MODE if device == "cuda" else None)


def _existing_keys(
    batch: int,
    cubes: int,
    tokens: int,
    rest: int,
    spare: int,
    valid: Tensor | None,
    rest_mask: Tensor | None,
    device: torch.device,
) -> Tensor:
    """(B, keys) bool: False in the padding of ragged cubes, of masked text, and after the rest."""
    grid = valid.flatten() if valid is not None else torch.ones(cubes * tokens, dtype=torch.bool, device=device)
    outside = rest_mask if rest_mask is not None else torch.ones(batch, rest, dtype=torch.bool, device=device)
    return torch.cat((grid.expand(batch, -1), F.pad(outside, (0, spare))), 1)


def _chosen_blocks(selected: Tensor, cubes: int, rest_blocks: int) -> Tensor:
    """(B, heads, query cubes, key blocks) bool: the selected cubes and every block of the rest."""
    batch, heads, queries, _ = selected.shape
    grid = torch.zeros(batch, heads, queries, cubes, dtype=torch.bool, device=selected.device)
    return F.pad(grid.scatter(-1, selected.long(), True), (0, rest_blocks), value=True)


def _block_mask(chosen: Tensor, exists: Tensor, tokens: int) -> BlockMask:
    """Blocks whose keys all exist skip the mask function; the others run it."""
    whole = exists.unflatten(1, (-1, tokens)).all(-1)[:, None, None]

    def mask(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return chosen[b, h, query // tokens, key // tokens] & exists[b, key]

    partial_count, partial_blocks = _ordered(chosen & ~whole)
    full_count, full_blocks = _ordered(chosen & whole)
    return BlockMask.from_kv_blocks(
        partial_count,
        partial_blocks,
        full_count,
        full_blocks,
        BLOCK_SIZE=tokens,
        mask_mod=mask,
        seq_lengths=(chosen.shape[2] * tokens, chosen.shape[3] * tokens),
    )


def _ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks each query block has, and their indices first in ascending order."""
    counts = blocks.sum(-1, dtype=torch.int32)
    return counts, blocks.int().argsort(stable=True, dim=-1, descending=True).int()
