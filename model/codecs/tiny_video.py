"""A light causal video codec: stride 4x8x8, fast enough to train and run on a laptop's CPU.

Frames are folded into patches before any convolution, so most of the work happens on the latent grid. Time only
looks back: latent 0 holds frame 0 alone, and the latents of a clip's beginning do not change when the clip goes on.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from model.codecs.latents import LatentStatistics
from model.codecs.light import LightCodec
from model.shapes import VideoCodecSpec

PATCH = 4  # pixels per side folded into channels before the first convolution
TIME, SPACE = 4, 2  # frames and patch sides folded again: 4 x (4 * 2) x (4 * 2)


@dataclass(frozen=True)
class TinyVideoConfig:
    """`width` is channels on the latent grid, `patch_width` channels per 4x4 patch and frame."""

    channels: int = 16
    width: int = 128
    patch_width: int = 32
    depth: int = 2
    patch_depth: int = 1


class TinyVideoCodec(LightCodec):
    """Frames (B, 3, F, H, W) in [-1, 1] <-> latents (B, C, T, H/8, W/8) at unit variance, F = 4 (T - 1) + 1."""

    config: TinyVideoConfig
    config_class = TinyVideoConfig

    def __init__(self, config: TinyVideoConfig, statistics: LatentStatistics | None = None) -> None:
        super().__init__(config, statistics)
        self.spec = VideoCodecSpec(config.channels, (TIME, PATCH * SPACE, PATCH * SPACE), causal_first=True)
        self.encoder = _Encoder(config)
        self.decoder = _Decoder(config)

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """The latents of `frames`, normalised."""
        return self.norm.normalise(self.raw_latents(frames))

    def decode(self, latents: Tensor, chunk: int = 16) -> Tensor:
        """Frames in [-1, 1]. Decodes `chunk` latent frames at a time; the result does not depend on `chunk`."""
        return torch.cat(list(self.decode_parts(latents, chunk)), dim=2)

    @torch.no_grad()
    def decode_parts(self, latents: Tensor, chunk: int = 16) -> Iterator[Tensor]:
        """The frames of `chunk` latent frames after the other."""
        latents = self.norm.denormalise(latents)
        context = 2 * self.config.depth  # each block looks two latents back
        for start in range(0, latents.shape[2], chunk):
            seen = max(0, start - context)
            frames = self.reconstruct(latents[:, :, seen : start + chunk])
            new = frames if start == 0 else frames[:, :, -TIME * min(chunk, latents.shape[2] - start) :]
            yield new.clamp(-1, 1)

    def raw_latents(self, frames: Tensor) -> Tensor:
        """Latents (B, C, T, H/8, W/8) that are not normalised; differentiable."""
        self.spec.latent_frames(frames.shape[2])
        lead = frames[:, :, :1].expand(-1, -1, TIME - 1, -1, -1)
        out: Tensor = self.encoder(torch.cat([lead, frames], dim=2))
        return out

    def reconstruct(self, latents: Tensor) -> Tensor:
        """Frames of latents that are not normalised, differentiable and not clamped."""
        made: Tensor = self.decoder(latents)[:, :, TIME - 1 :]
        return made


class _Encoder(nn.Module):
    def __init__(self, config: TinyVideoConfig) -> None:
        super().__init__()
        self.patch_in = nn.Conv2d(3 * PATCH**2, config.patch_width, 3, padding=1)
        self.patch_blocks = nn.Sequential(*[_PatchBlock(config.patch_width) for _ in range(config.patch_depth)])
        self.fold = nn.Conv3d(config.patch_width * TIME * SPACE**2, config.width, 1)
        self.blocks = nn.Sequential(*[_CausalBlock(config.width) for _ in range(config.depth)])
        self.out = nn.Conv3d(config.width, config.channels, 1)

    def forward(self, frames: Tensor) -> Tensor:
        batch = frames.shape[0]
        patches = rearrange(frames, "b c f (h p) (w q) -> (b f) (c p q) h w", p=PATCH, q=PATCH)
        patches = self.patch_blocks(self.patch_in(patches))
        pattern = "(b t r) c (h p) (w q) -> b (c r p q) t h w"
        cells = rearrange(patches, pattern, b=batch, r=TIME, p=SPACE, q=SPACE)
        out: Tensor = self.out(self.blocks(self.fold(cells)))
        return out


class _Decoder(nn.Module):
    def __init__(self, config: TinyVideoConfig) -> None:
        super().__init__()
        self.embed = nn.Conv3d(config.channels, config.width, 1)
        self.blocks = nn.Sequential(*[_CausalBlock(config.width) for _ in range(config.depth)])
        self.unfold = nn.Conv3d(config.width, config.patch_width * TIME * SPACE**2, 1)
        self.patch_blocks = nn.Sequential(*[_PatchBlock(config.patch_width) for _ in range(config.patch_depth)])
        self.patch_out = nn.Conv2d(config.patch_width, 3 * PATCH**2, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        batch = latents.shape[0]
        cells = self.unfold(self.blocks(self.embed(latents)))
        patches = rearrange(cells, "b (c r p q) t h w -> (b t r) c (h p) (w q)", r=TIME, p=SPACE, q=SPACE)
        patches = self.patch_out(self.patch_blocks(patches))
        made: Tensor = rearrange(patches, "(b f) (c p q) h w -> b c f (h p) (w q)", b=batch, p=PATCH, q=PATCH)
        return made


class _CausalBlock(nn.Module):
    """Residual: a 1x3x3 convolution in space, then one over the present and the two latents before it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.space = nn.Conv3d(width, width, (1, 3, 3), padding=(0, 1, 1))
        self.time = nn.Conv3d(width, width, (3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.silu(self.space(_rms_norm(x)))
        past = hidden[:, :, :1].expand(-1, -1, 2, -1, -1)
        out: Tensor = x + self.time(torch.cat([past, hidden], dim=2))
        return out


class _PatchBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(F.silu(self.first(F.silu(x))))
        return out


def _rms_norm(x: Tensor) -> Tensor:
    """Unit mean square over channels at every place, so no statistics leak across time."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6)
