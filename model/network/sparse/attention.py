"""Video Sparse Attention (arXiv 2505.13389): a coarse stage over space-time cubes picks what a fine stage attends to.

Video tokens are permuted into cubes (4 x 4 x 4 = 64 tokens). Coarse: attention between the cubes' means. Fine: the
tokens of each cube attend to the tokens of its top-k cubes and to every token outside the video grid (text,
references, keyframes), whose own queries stay dense. Output = gate * coarse + fine.

The fine stage has kernels that agree: `launch` (GPUs), `gather` (plain PyTorch, differentiable on any device)
and `flex` (compiled FlexAttention). The oracle all are tested against is a masked dense attention in the tests.
"""

import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from model.network.attention import attend
from model.network.sparse.flex import flex_fine
from model.network.sparse.gather import gather_fine

HAS_TRITON = find_spec("triton") is not None
if HAS_TRITON:  # comes with CUDA builds of PyTorch, and not with those for CPUs
    from model.network.sparse.launch import triton_fine

Kernel = Literal["auto", "gather", "flex", "triton"]
SELECTION_SCORES = 2**26
"""Scores between cubes that are looked at together when the nearest are chosen: 256 MiB."""


@dataclass(frozen=True)
class SparsePlan:
    """Where the video grid lies in a sequence, and how much of it each cube skips.

    `start` is the grid's first token, `grid` its (T, H, W) in tokens. `sparsity` 0 keeps the fine stage dense.
    """

    start: int
    grid: tuple[int, int, int]
    sparsity: float
    cube: tuple[int, int, int] = (4, 4, 4)
    kernel: Kernel = "auto"

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity {self.sparsity} must lie in [0, 1)")

    @property
    def tokens(self) -> int:
        """Tokens of the grid."""
        return math.prod(self.grid)

    @property
    def cubes(self) -> tuple[int, int, int]:
        """Cubes along each axis; the last ones may be ragged."""
        time, height, width = (-(-size // edge) for size, edge in zip(self.grid, self.cube, strict=True))
        return time, height, width

    @property
    def kept(self) -> int:
        """Key cubes each query cube attends to: clamp(ceil((1 - sparsity) N), 1, N)."""
        total = math.prod(self.cubes)
        # Rounded first: (1 - 0.9) * 10 is 0.9999999999999998, and 1 - 0.7 times 10 is a little over 3.
        return min(max(math.ceil(round((1 - self.sparsity) * total, 6)), 1), total)

    def slice_grid(self, x: Tensor, dim: int) -> Tensor:
        """The grid's tokens of a sequence along `dim`."""
        return x.narrow(dim, self.start, self.tokens)

    def slice_rest(self, x: Tensor, dim: int) -> Tensor:
        """The tokens before and after the grid."""
        stop = self.start + self.tokens
        return torch.cat((x.narrow(dim, 0, self.start), x.narrow(dim, stop, x.shape[dim] - stop)), dim)


def sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, plan: SparsePlan, key_mask: Tensor | None = None
) -> Tensor:
    """Attention of a whole sequence (B, heads, N, d) that is sparse between the tokens of `plan`'s video grid.

    `gate` (B, heads, grid tokens, d) weighs the coarse output; `key_mask` (B, N) is True where a token exists and
    must be True on the grid. Rotary positions are already applied.
    """
    means = [cube_means(plan.slice_grid(part, 2), plan) for part in (q, k, v)]
    coarse = coarse_stage(*means).to(v.dtype)
    if plan.sparsity == 0:
        dense = attend(q, k, v, key_mask)
        gated = _add_coarse(plan.slice_grid(dense, 2), gate, coarse, plan)
        return torch.cat((dense[:, :, : plan.start], gated, dense[:, :, plan.start + plan.tokens :]), 2)

    selected = select_cubes(means[0], means[1], plan.kept)
    grid_out = _add_coarse(fine_stage(q, k, v, selected, plan, key_mask), gate, coarse, plan)
    rest_q = plan.slice_rest(q, 2)
    if not rest_q.shape[2]:
        return grid_out
    rest_out = attend(rest_q, k, v, key_mask)
    return torch.cat((rest_out[:, :, : plan.start], grid_out, rest_out[:, :, plan.start :]), 2)


def cube_means(x: Tensor, plan: SparsePlan) -> Tensor:
    """Means of the grid's tokens (B, heads, T*H*W, d) over each cube: (B, heads, cubes, d) float32."""
    if _ragged(plan):
        return into_cubes(x, plan).sum(3, dtype=torch.float32) / cube_sizes(plan, x.device)[:, None]
    parts = [size for pair in zip(plan.cubes, plan.cube, strict=True) for size in pair]
    sums: Tensor = x.unflatten(2, parts).sum((3, 5, 7), dtype=torch.float32).flatten(2, 4)
    return sums / math.prod(plan.cube)


def coarse_stage(mean_q: Tensor, mean_k: Tensor, mean_v: Tensor) -> Tensor:
    """Full attention between the means of cubes, (B, heads, cubes, d) in float32."""
    with torch.autocast(mean_q.device.type, enabled=False):
        return F.scaled_dot_product_attention(mean_q, mean_k, mean_v)


@torch.no_grad()
def select_cubes(mean_q: Tensor, mean_k: Tensor, kept: int) -> Tensor:
    """The `kept` key cubes with the highest coarse scores of each query cube, (B, heads, cubes, kept) int32, unordered.

    Scores are made for some query cubes at a time: only what is kept is as long as the clip.
    """
    at_once = max(SELECTION_SCORES // (mean_k.shape[:3].numel()), 1)
    with torch.autocast(mean_q.device.type, enabled=False):
        parts = [(some @ mean_k.mT).topk(kept, -1, sorted=False).indices.int() for some in mean_q.split(at_once, 2)]
    return torch.cat(parts, 2) if len(parts) > 1 else parts[0]


def fine_stage(q: Tensor, k: Tensor, v: Tensor, selected: Tensor, plan: SparsePlan, key_mask: Tensor | None) -> Tensor:
    """Each cube's tokens attend to those of its `selected` cubes and to all outside the grid: (B, heads, T*H*W, d)."""
    kernel = chosen_kernel(plan.kernel, q.device.type)
    if kernel == "triton":
        return triton_fine(q, k, v, selected, key_mask, plan.start, plan.grid, plan.cube)
    cubes = [into_cubes(plan.slice_grid(part, 2), plan) for part in (q, k, v)]
    rest_k, rest_v = plan.slice_rest(k, 2), plan.slice_rest(v, 2)
    rest_mask = plan.slice_rest(key_mask, 1) if key_mask is not None else None
    attention = flex_fine if kernel == "flex" else gather_fine
    valid = valid_tokens(plan, q.device)
    made = attention(cubes[0], cubes[1], cubes[2], selected, valid, rest_k, rest_v, rest_mask)
    return from_cubes(made, plan)


def chosen_kernel(kernel: Kernel, device: str) -> Kernel:
    """The kernel that runs: on a GPU Triton's, where it is installed; elsewhere `gather`."""
    if kernel == "triton" and not HAS_TRITON:
        raise ImportError(
            "sparse_kernel is triton, which is not installed: install triton, or set it to auto or gather"
        )
    if kernel != "auto":
        return kernel
    return "triton" if device == "cuda" and HAS_TRITON else "gather"


def _add_coarse(fine: Tensor, gate: Tensor, coarse: Tensor, plan: SparsePlan) -> Tensor:
    """fine + gate * coarse, (B, heads, T*H*W, d), where `coarse` (B, heads, cubes, d) is the same in all of a cube."""
    if _ragged(plan):
        spread = coarse[:, :, :, None].expand(-1, -1, -1, math.prod(plan.cube), -1)
        return torch.addcmul(fine, gate, from_cubes(spread, plan))
    parts = [size for pair in zip(plan.cubes, plan.cube, strict=True) for size in pair]
    alike = [size for count in plan.cubes for size in (count, 1)]
    made = torch.addcmul(fine.unflatten(2, parts), gate.unflatten(2, parts), coarse.unflatten(2, alike))
    return made.flatten(2, 7)


def _ragged(plan: SparsePlan) -> bool:
    return any(size % edge for size, edge in zip(plan.grid, plan.cube, strict=True))


def into_cubes(x: Tensor, plan: SparsePlan) -> Tensor:
    """(B, heads, T*H*W, d) to (B, heads, cubes, tokens per cube, d), zeros where a cube is ragged."""
    (ct, ch, cw), (et, eh, ew) = plan.cubes, plan.cube
    x = x.unflatten(2, plan.grid)
    spare = [count * edge - size for count, edge, size in zip(plan.cubes, plan.cube, plan.grid, strict=True)]
    if any(spare):
        x = F.pad(x, (0, 0, 0, spare[2], 0, spare[1], 0, spare[0]))
    x = x.unflatten(4, (cw, ew)).unflatten(3, (ch, eh)).unflatten(2, (ct, et))
    return x.permute(0, 1, 2, 4, 6, 3, 5, 7, 8).flatten(5, 7).flatten(2, 4)


def from_cubes(x: Tensor, plan: SparsePlan) -> Tensor:
    """The inverse of `into_cubes`; what stood in padding is dropped."""
    time, height, width = plan.grid
    x = x.unflatten(3, plan.cube).unflatten(2, plan.cubes).permute(0, 1, 2, 5, 3, 6, 4, 7, 8)
    x = x.flatten(6, 7).flatten(4, 5).flatten(2, 3)
    return x[:, :, :time, :height, :width].flatten(2, 4)


def cube_sizes(plan: SparsePlan, device: torch.device) -> Tensor:
    """Valid tokens in each cube, (cubes,) float32."""
    per_axis = [
        (size - edge * torch.arange(count, device=device, dtype=torch.float32)).clamp(max=edge)
        for size, edge, count in zip(plan.grid, plan.cube, plan.cubes, strict=True)
    ]
    return torch.einsum("i,j,k->ijk", *per_axis).flatten()


def valid_tokens(plan: SparsePlan, device: torch.device) -> Tensor | None:
    """(cubes, tokens per cube) bool, False in padding; None where no cube is ragged."""
    if not _ragged(plan):
        return None
    return into_cubes(torch.ones(1, 1, plan.tokens, 1, device=device), plan)[0, 0, :, :, 0] > 0
