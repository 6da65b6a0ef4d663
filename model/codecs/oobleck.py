"""The Oobleck audio codec of diffusers (`AutoencoderOobleck`, Stable Audio), by hub id or path: 44.1 kHz stereo."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.checksums import check, seal
from model.codecs.latents import LatentNorm, LatentStatistics, weights_identity
from model.shapes import AudioCodecSpec


class OobleckAudioCodec(nn.Module):
    """Waveforms (B, 1 or 2, samples) in [-1, 1] <-> latents (B, C, samples // hop) at unit variance.

    Its posterior is trained towards unit variance, so without a file of measured statistics latents stay as they are.
    Long sound is coded in overlapping pieces.
    """

    stored_as = "AutoencoderOobleck"

    def __init__(self, vae: Any, statistics: LatentStatistics | None = None) -> None:
        super().__init__()
        self.vae = vae.eval().requires_grad_(False)
        config = vae.config
        channels = config.decoder_input_channels
        self.spec = AudioCodecSpec(channels, config.sampling_rate, vae.hop_length, config.audio_channels == 2)
        self.norm = LatentNorm(statistics or LatentStatistics.unmeasured(channels))
        vae.use_tiling = True

    @property
    def identity(self) -> str:
        """Changes with the configuration, the weights or the latent statistics."""
        config = {k: v for k, v in self.vae.config.items() if not k.startswith("_")}
        return weights_identity({**config, "statistics": self.norm.statistics}, self.vae.state_dict())

    @torch.no_grad()
    def encode(self, waveform: Tensor) -> Tensor:
        """The posterior's mean, normalised, in float32. Samples after the last whole latent are left out."""
        length = self.spec.latent_length(waveform.shape[-1])
        if length < 1:
            raise ValueError(
                f"{waveform.shape[-1]} samples are shorter than one audio latent ({self.spec.hop} samples)"
            )
        whole = waveform[..., : length * self.spec.hop].to(self.vae.dtype)
        return self.norm.normalise(self.vae.encode(whole).latent_dist.mode().float())

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Waveform (B, 1 or 2, L * hop) in [-1, 1], in float32."""
        waveform: Tensor = self.vae.decode(self.norm.denormalise(latents).to(self.vae.dtype)).sample
        return waveform.float().clamp(-1, 1)

    def save(self, directory: str | Path) -> None:
        """Write diffusers' folder and the latent statistics in it."""
        self.vae.save_pretrained(directory)
        self.norm.statistics.save(directory)
        seal(directory)

    @classmethod
    def without_weights(cls, directory: str | Path) -> "OobleckAudioCodec":
        """From a folder's configuration, with the weights it starts from."""
        from diffusers import AutoencoderOobleck

        vae = AutoencoderOobleck.from_config(AutoencoderOobleck.load_config(str(directory)))
        return cls(vae, LatentStatistics.load(directory))

    @classmethod
    def load(cls, source: str | Path, **options: Any) -> "OobleckAudioCodec":
        """From a folder or a hub id; `options` (subfolder, revision, torch_dtype) go to diffusers."""
        from diffusers import AutoencoderOobleck

        check(Path(source) / options.get("subfolder", ""))
        vae = AutoencoderOobleck.from_pretrained(str(source), **options)
        return cls(vae, LatentStatistics.load(Path(source) / options.get("subfolder", "")))
