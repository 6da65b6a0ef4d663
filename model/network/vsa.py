"""Video Sparse Attention (arXiv 2505.13389): a coarse stage over space-time cubes picks what a fine stage attends to.

Video tokens are permuted into cubes (4 x 4 x 4 = 64 tokens). Coarse: attention between the cubes' means. Fine: the
tokens of each cube attend to the tokens of its top-k cubes and to every token outside the video grid (text,
references, keyframes), whose own queries stay dense. Output = gate * coarse + fine.

The fine stage has two kernels that agree: `vsa_gather` (plain PyTorch, differentiable on any device) and `vsa_flex`
(compiled FlexAttention). The oracle both are tested against is a masked dense attention in the tests.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from model.network.attention import attend
from model.network.vsa_flex import flex_fine
from model.network.vsa_gather import gather_fine

Kernel = Literal["auto", "gather", "flex"]


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
    grid_q, grid_k, grid_v = (into_cubes(plan.slice_grid(part, 2), plan) for part in (q, k, v))
    sizes = cube_sizes(plan, q.device)
    coarse, scores = coarse_stage(grid_q, grid_k, grid_v, sizes)
    coarse = from_cubes(coarse[:, :, :, None].expand_as(grid_v), plan)
    if plan.sparsity == 0:
        fine = attend(q, k, v, key_mask)
        gated = torch.addcmul(plan.slice_grid(fine, 2), gate, coarse)
        return torch.cat((fine[:, :, : plan.start], gated, fine[:, :, plan.start + plan.tokens :]), 2)

    selected = scores.detach().topk(plan.kept, -1).indices
    rest_q, rest_k, rest_v = (plan.slice_rest(part, 2) for part in (q, k, v))
    rest_mask = plan.slice_rest(key_mask, 1) if key_mask is not None else None
    kernel = plan.kernel if plan.kernel != "auto" else ("flex" if q.is_cuda else "gather")
    fine_stage = flex_fine if kernel == "flex" else gather_fine
    fine = fine_stage(grid_q, grid_k, grid_v, selected, valid_tokens(plan, q.device), rest_k, rest_v, rest_mask)
    grid_out = torch.addcmul(from_cubes(fine, plan), gate, coarse)
    if not rest_q.shape[2]:
        return grid_out
    rest_out = attend(rest_q, k, v, key_mask)
    return torch.cat((rest_out[:, :, : plan.start], grid_out, rest_out[:, :, plan.start :]), 2)


def coarse_stage(q: Tensor, k: Tensor, v: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Full attention between the means of cubes (B, heads, cubes, tokens, d) over their `sizes` valid tokens.

    Returns the output (B, heads, cubes, d) and the scores (B, heads, cubes, cubes) the selection is made from.
    """
    mean_q, mean_k, mean_v = (part.float().sum(3) / sizes[:, None] for part in (q, k, v))
    scores = mean_q @ mean_k.mT / math.sqrt(q.shape[-1])
    return (scores.softmax(-1) @ mean_v).to(v.dtype), scores


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
    if not any(size % edge for size, edge in zip(plan.grid, plan.cube, strict=True)):
        return None
    return into_cubes(torch.ones(1, 1, plan.tokens, 1, device=device), plan)[0, 0, :, :, 0] > 0
