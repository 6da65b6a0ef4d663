"""The Wan video codec of diffusers (`AutoencoderKLWan`), by hub id or path: stride 4x8x8, or 4x16x16 for Wan 2.2."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from model.checksums import check, seal
from model.codecs.latents import LatentNorm, LatentStatistics, weights_identity
from model.shapes import VideoCodecSpec
from model.tiles import Tiles


class WanVideoCodec(nn.Module):
    """Frames (B, 3, F, H, W) in [-1, 1] <-> latents (B, C, T, H / 8, W / 8) at unit variance.

    The network walks through time one latent at a time with cached features, so length costs no memory beyond the
    frames themselves, and `decode_parts` gives them as they are made; frames larger than `tile` pixels a side are coded
    in overlapping tiles that are blended.
    """

    stored_as = "AutoencoderKLWan"

    def __init__(self, vae: Any, statistics: LatentStatistics | None = None, tile: int = 512) -> None:
        super().__init__()
        self.vae = vae.eval().requires_grad_(False)
        config = vae.config
        stride = (config.scale_factor_temporal, config.scale_factor_spatial, config.scale_factor_spatial)
        self.spec = VideoCodecSpec(config.z_dim, stride, causal_first=True)
        self.norm = LatentNorm(statistics or _published(config))
        vae.enable_tiling(tile, tile, tile * 3 // 4, tile * 3 // 4)
        self.tile = tile

    @property
    def identity(self) -> str:
        """Changes with the configuration, the weights or the latent statistics."""
        config = {k: v for k, v in self.vae.config.items() if not k.startswith("_")}
        return weights_identity({**config, "statistics": self.norm.statistics}, self.vae.state_dict())

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """The posterior's mean, normalised, in float32."""
        self.spec.latent_frames(frames.shape[2])
        latents = self.vae.encode(frames.to(self.vae.dtype)).latent_dist.mode()
        return self.norm.normalise(latents.float())

    def decode(self, latents: Tensor) -> Tensor:
        """Frames in [-1, 1], in float32."""
        return torch.cat(list(self.decode_parts(latents)), 2)

    @torch.no_grad()
    def decode_parts(self, latents: Tensor) -> Iterator[Tensor]:
        """The frames of one latent after the other; what a tile's convolutions keep of the past waits on the device."""
        values = self.norm.denormalise(latents).to(self.vae.dtype)
        stride = self.spec.stride[1]
        side = self.tile // stride
        tiles = Tiles.over((values.shape[-2], values.shape[-1]), (side, side), (side - side * 3 // 4,) * 2)
        self.vae.clear_cache()
        pasts = [list(self.vae._feat_map) for _ in range(tiles.count)]
        for index in range(values.shape[2]):
            now = zip(tiles.cut(values[:, :, index : index + 1]), pasts, strict=True)
            frames = tiles.times(stride).join([self._pixels(part, past, index == 0) for part, past in now])
            yield frames.float().clamp(-1, 1)

    def _pixels(self, latent: Tensor, past: list[Any], first: bool) -> Tensor:
        """Frames of one tile of one latent; `past` is what its convolutions saw before, and is brought up to date."""
        made = self.vae.decoder(self.vae.post_quant_conv(latent), feat_cache=past, feat_idx=[0], first_chunk=first)
        size = self.vae.config.patch_size
        frames: Tensor = made if size is None else unpatched(made, size)
        return frames

    def save(self, directory: str | Path) -> None:
        """Write diffusers' folder and the latent statistics in it."""
        self.vae.save_pretrained(directory)
        self.norm.statistics.save(directory)
        seal(directory)

    @classmethod
    def without_weights(cls, directory: str | Path) -> "WanVideoCodec":
        """From a folder's configuration, with the weights it starts from."""
        from diffusers import AutoencoderKLWan

        vae = AutoencoderKLWan.from_config(AutoencoderKLWan.load_config(str(directory)))
        return cls(vae, LatentStatistics.load(directory))

    @classmethod
    def load(cls, source: str | Path, tile: int = 512, **options: Any) -> "WanVideoCodec":
        """From a folder or a hub id; `options` (subfolder, revision, torch_dtype) go to diffusers."""
        from diffusers import AutoencoderKLWan

        check(Path(source) / options.get("subfolder", ""))
        vae = AutoencoderKLWan.from_pretrained(str(source), **options)
        return cls(vae, LatentStatistics.load(Path(source) / options.get("subfolder", "")), tile)


def unpatched(frames: Tensor, size: int) -> Tensor:
    """(B, 3 * size * size, F, H, W) to (B, 3, F, H * size, W * size), as Wan 2.2 folds them."""
    return rearrange(frames, "b (c q p) f h w -> b c f (h p) (w q)", p=size, q=size)


def _published(config: Any) -> LatentStatistics:
    """The mean and standard deviation that the published weights carry in their configuration."""
    if len(config.latents_mean) != config.z_dim:
        raise ValueError(
            f"this AutoencoderKLWan has {config.z_dim} latent channels but latents_mean of {len(config.latents_mean)}: "
            "set latents_mean and latents_std in its config.json, or measure them (model.codecs.latents)"
        )
    return LatentStatistics(tuple(config.latents_mean), tuple(config.latents_std))
