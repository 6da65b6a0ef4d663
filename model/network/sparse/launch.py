"""The fine stage of Video Sparse Attention in Triton kernels: the path of a GPU (docs/decisions/0090).

Indices are the selection itself, (B, heads, cubes, kept), and for the gradients of keys its inverse: nothing is as
large as cubes times cubes. Kernels are compiled for a head width, cube and precision, not for a length, so that no
clip or text needs one of its own. On a CPU they run in Triton's interpreter (TRITON_INTERPRET=1), for tests.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from model.network.sparse import kernels

LOG2_E = 1.4426950408889634
REST_SHARES = 16
"""Into how many parts the query cubes are dealt that a block of keys outside the grid hears of at a time: one part
would keep a few processors busy long after all others are done."""


@dataclass(frozen=True)
class Launch:
    """How a kernel is compiled for 16-bit tiles."""

    num_warps: int
    num_stages: int


LAUNCHES = {"forward": Launch(4, 3), "query_gradient": Launch(4, 2), "key_gradients": Launch(4, 2)}
"""For heads of 128 on Hopper, tiles of 64 x 64 (`benchmarks/gpu.sh OUT tune` tries others)."""


def triton_fine(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    selected: Tensor,
    key_mask: Tensor | None,
    start: int,
    grid: tuple[int, int, int],
    cube: tuple[int, int, int],
) -> Tensor:
    """Each cube of the grid attends to its `selected` cubes and to every token outside the grid.

    q, k, v: (B, heads, N, d) bfloat16, float16 or float32, in token order. selected: (B, heads, cubes, kept) cubes.
    key_mask: (B, N) bool, True on the grid, or None. The grid of (T, H, W) tokens begins at token `start`. Returns
    (B, heads, grid tokens, d).
    """
    if q.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        raise TypeError(
            f"the Triton kernels take bfloat16, float16 or float32, not {q.dtype}: set the kernel to gather"
        )
    made: Tensor = _fine(q, k, v, selected.int().contiguous(), key_mask, start, grid, cube)[0]
    return made


@torch.library.custom_op("skyreels::vsa_fine", mutates_args=())
def _fine(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    selected: Tensor,
    key_mask: Tensor | None,
    start: int,
    grid: Sequence[int],
    cube: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """The output, and the logarithms of the softmax's denominators that the backward pass takes."""
    shape = _Shape(q, selected, start, grid, cube)
    q, k, v = map(_rows, (q, k, v))
    out = _like_tokens(q, math.prod(grid))
    lse = torch.empty(shape.rows, shape.cubes, shape.slots, device=q.device, dtype=torch.float32)
    with torch.cuda.device_of(q):
        kernels.forward[shape.cubes, shape.rows](
            *(q, k, v, out, lse, selected, _bytes(key_mask)),
            *map(_strides, (q, k, v, out)),
            *(*shape.numbers, shape.scale),
            **shape.constants,
            **shape.rest_constants(key_mask),
            **shape.launch("forward"),
        )
    return out, lse


@_fine.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    selected: Tensor,
    key_mask: Tensor | None,
    start: int,
    grid: Sequence[int],
    cube: Sequence[int],
) -> tuple[Tensor, Tensor]:
    shape = _Shape(q, selected, start, grid, cube)
    lse = q.new_empty(shape.rows, shape.cubes, shape.slots, dtype=torch.float32)
    return _like_tokens(q, math.prod(grid)), lse


@torch.library.custom_op("skyreels::vsa_fine_backward", mutates_args=())
def _fine_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    selected: Tensor,
    key_mask: Tensor | None,
    start: int,
    grid: Sequence[int],
    cube: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, of whole sequences; queries outside the grid get none."""
    shape = _Shape(q, selected, start, grid, cube)
    grad, q, k, v = map(_rows, (grad, q, k, v))
    made = grad_q, grad_k, grad_v = _like_tokens(q), _like_tokens(q), _like_tokens(q)
    stop = start + math.prod(grid)
    grad_q[:, :, :start], grad_q[:, :, stop:] = 0, 0
    delta = torch.empty_like(lse)
    with torch.cuda.device_of(q):
        kernels.query_gradient[shape.cubes, shape.rows](
            *(q, k, v, out, grad, lse, delta, grad_q, selected, _bytes(key_mask)),
            *map(_strides, (q, k, v, out, grad, grad_q)),
            *(*shape.numbers, shape.scale),
            **shape.constants,
            **shape.rest_constants(key_mask),
            **shape.launch("query_gradient"),
        )
        readers, starts, order = inverse_index(selected)
        kernels.key_gradients[shape.cubes, shape.rows](
            *(q, k, v, grad, lse, delta, grad_k, grad_v, order, starts, readers),
            *map(_strides, (q, k, v, grad, grad_k)),
            *(*shape.numbers, shape.scale),
            **shape.constants,
            **shape.launch("key_gradients"),
        )
        if shape.rest:
            parts = _rest_gradients(shape, grad, q, k, v, lse, delta, key_mask)
            for whole, part in zip((grad_k, grad_v), parts, strict=True):
                whole[:, :, :start], whole[:, :, stop:] = part[:, :, :start], part[:, :, start:]
    return made


@_fine_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _like_tokens(q), _like_tokens(q), _like_tokens(q)


def inverse_index(selected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The query cubes that selected each key cube, of (B, heads, cubes, kept): as large as the selection.

    Returns readers, one int32 for each pair; starts (B * heads * cubes + 1,) int64, where each key cube's readers
    begin; and order (B * heads, cubes) int32, key cubes with most readers first.
    """
    batch, heads, cubes, kept = selected.shape
    rows = torch.arange(batch * heads, device=selected.device)[:, None] * cubes
    keys, pairs = (selected.reshape(batch * heads, -1) + rows).flatten().sort(stable=True)
    starts = torch.searchsorted(keys, torch.arange(batch * heads * cubes + 1, device=keys.device))
    order = starts.diff().view(batch * heads, cubes).argsort(-1, descending=True)
    return (pairs // kept % cubes).int(), starts, order.int()


def _rest_gradients(
    shape: "_Shape", grad: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor, key_mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients of the keys and values outside the grid, (B, heads, rest, d) float32."""
    share = -(-shape.cubes // REST_SHARES)
    shares = -(-shape.cubes // share)
    grad_k, grad_v = (
        torch.empty(shares, *q.shape[:2], shape.rest, shape.width, device=q.device, dtype=torch.float32) for _ in "kv"
    )
    kernels.rest_gradients[-(-shape.rest // shape.slots), shape.rows, shares](
        *(q, k, v, grad, lse, delta, grad_k, grad_v, _bytes(key_mask)),
        *map(_strides, (q, k, v, grad)),
        *(*shape.numbers, shape.rest, share, shape.scale),
        **shape.constants,
        MASKED=key_mask is not None,
        **shape.launch("key_gradients"),
    )
    return grad_k.sum(0), grad_v.sum(0)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, selected, key_mask, *ctx.where = inputs
    ctx.save_for_backward(q, k, v, *output, selected, key_mask)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 8
    q, k, v, out, lse, selected, key_mask = ctx.saved_tensors
    made = _fine_backward(grad, q, k, v, out, lse, selected, key_mask, *ctx.where)
    return (*made, None, None, None, None, None)


_fine.register_autograd(_backward, setup_context=_setup_context)


class _Shape:
    """What all kernels are told about one call."""

    def __init__(self, q: Tensor, selected: Tensor, start: int, grid: Sequence[int], cube: Sequence[int]) -> None:
        batch, heads, length, self.width = q.shape
        self.dtype = q.dtype
        self.rows, self.rest = batch * heads, length - math.prod(grid)
        counts = [-(-size // edge) for size, edge in zip(grid, cube, strict=True)]
        self.cubes = math.prod(counts)
        self.slots = max(16, triton.next_power_of_2(math.prod(cube)))
        ragged = self.slots > math.prod(cube) or any(size % edge for size, edge in zip(grid, cube, strict=True))
        self.numbers = (start, *grid, counts[1], counts[2], length, heads, self.cubes, selected.shape[-1])
        self.scale = LOG2_E / math.sqrt(self.width)
        self.constants = {
            "EDGES": tuple(cube),
            "SLOTS": self.slots,
            "D": self.width,
            "BLOCK_D": max(16, triton.next_power_of_2(self.width)),
            "RAGGED": ragged,
            "PRECISION": "tf32x3" if q.dtype == torch.float32 else "tf32",
        }

    def rest_constants(self, key_mask: Tensor | None) -> dict[str, bool]:
        """Of the kernels that walk over keys."""
        return {"REST": self.rest > 0, "MASKED": key_mask is not None}

    def launch(self, kernel: str) -> dict[str, int]:
        """Warps and stages. Tiles of float32 are twice as large and fit one stage."""
        chosen = LAUNCHES[kernel]
        return {
            "num_warps": chosen.num_warps,
            "num_stages": chosen.num_stages if self.dtype != torch.float32 else 1,
        }


def _like_tokens(x: Tensor, tokens: int | None = None) -> Tensor:
    """(B, heads, tokens, d) that lies in memory as (B, tokens, heads, d), which is what follows attention."""
    batch, heads, length, width = x.shape
    return x.new_empty(batch, length if tokens is None else tokens, heads, width).transpose(1, 2)


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _strides(x: Tensor) -> tuple[int, int, int]:
    return x.stride(0), x.stride(1), x.stride(2)


def _bytes(key_mask: Tensor | None) -> Tensor | None:
    return key_mask.contiguous().view(torch.uint8) if key_mask is not None else None
