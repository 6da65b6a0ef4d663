"""High-resolution keyframes denoised in one pass with the low-resolution sequence (paper, section 4.5).

Keyframe tokens follow the low-resolution ones. Each carries the temporal index of its frame and spatial positions
scaled onto the low-resolution grid, so both resolutions share one coordinate system.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.network.rope import grid_positions


@dataclass(frozen=True)
class KeyframeInput:
    """High-resolution latents of K latent frames of a clip.

    `latents` (B, 2C+1, K, Hk, Wk): noisy latents, condition latents and keep_mask, as for the sequence.
    `indices` are the K latent frames they belong to.
    """

    latents: Tensor
    indices: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.latents.shape[2] != len(self.indices):
            raise ValueError(f"{self.latents.shape[2]} keyframe latents but {len(self.indices)} indices {self.indices}")


def keyframe_indices(latent_frames: int, spacing: int) -> tuple[int, ...]:
    """Every `spacing`-th latent frame, the first and the last always included."""
    if spacing < 1:
        raise ValueError(f"keyframe spacing {spacing} must be at least 1")
    return (*range(0, latent_frames - 1, spacing), latent_frames - 1)


def keyframe_positions(
    indices: tuple[int, ...], size: tuple[int, int], grid: tuple[int, int], device: torch.device
) -> Tensor:
    """(K * Hk * Wk, 3) positions of keyframe tokens, `size` = (Hk, Wk) tokens, on a `grid` of (H, W) tokens.

    Token centres meet: (row + 0.5) of Hk falls on (row + 0.5) / Hk * H of the low-resolution grid.
    """
    rows, columns = (
        (torch.arange(n, device=device, dtype=torch.float32) + 0.5) * (coarse / n) - 0.5
        for n, coarse in zip(size, grid, strict=True)
    )
    times = torch.cat([torch.full((1,), float(index), device=device) for index in indices])  # as a graph can record
    return grid_positions(times, rows, columns)
