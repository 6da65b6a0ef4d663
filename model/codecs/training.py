"""Training losses of the tiny codecs: reconstruction, spectra, and a small KL term.

No adversarial loss: at these sizes and on rendered clips regression gives all that the system's proofs need.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model.codecs.tiny_audio import TinyAudioCodec, magnitudes
from model.codecs.tiny_video import TinyVideoCodec


@dataclass(frozen=True)
class CodecLosses:
    """Weights of the loss terms; `noise` is the standard deviation added to latents so that decoders forgive errors."""

    l1: float = 1.0
    l2: float = 1.0
    spectral: float = 1.0
    kl: float = 0.01
    noise: float = 0.05


def video_codec_loss(
    codec: TinyVideoCodec,
    frames: Tensor,
    weights: CodecLosses = CodecLosses(),
    generator: torch.Generator | None = None,
) -> Tensor:
    """Loss of one batch (B, 3, F, H, W) in [-1, 1]; noise on latents comes from `generator`."""
    latents = codec.raw_latents(frames)
    decoded = codec.reconstruct(_noised(latents, weights, generator))
    return _reconstruction(decoded, frames, weights) + weights.kl * aggregate_kl(latents)


def audio_codec_loss(
    codec: TinyAudioCodec,
    waveform: Tensor,
    weights: CodecLosses = CodecLosses(),
    generator: torch.Generator | None = None,
) -> Tensor:
    """Loss of one batch (B, A, samples) in [-1, 1]: log magnitudes, and magnitudes so that loud bins are exact."""
    target = codec.loudness(waveform)
    latents = codec.raw_latents(waveform)
    decoded = codec.reconstruct(_noised(latents, weights, generator))
    spectral = weights.spectral * spectral_convergence(magnitudes(decoded), magnitudes(target))
    return _reconstruction(decoded, target, weights) + spectral + weights.kl * aggregate_kl(latents)


def spectral_convergence(heard: Tensor, wanted: Tensor) -> Tensor:
    """Distance between magnitude spectra relative to the wanted one (Parallel WaveGAN, equation 5)."""
    made: Tensor = (heard - wanted).norm() / wanted.norm().clamp(min=1e-3)
    return made


def aggregate_kl(latents: Tensor) -> Tensor:
    """KL from a Gaussian with each channel's mean and variance over the batch (B, C, ...) to N(0, 1), mean over C.

    The batch as a whole is held to unit variance, not each latent: a KL per latent, at the size of these codecs and
    under Adam, shrinks all means to nothing before the decoder has learned to use them.
    """
    flat = latents.transpose(0, 1).flatten(1)
    mean, variance = flat.mean(1), flat.var(1).clamp(min=1e-8)
    return 0.5 * (mean.square() + variance - 1 - variance.log()).mean()


def _noised(latents: Tensor, weights: CodecLosses, generator: torch.Generator | None) -> Tensor:
    noise = torch.randn(latents.shape, generator=generator, device=generator.device if generator else latents.device)
    return latents + weights.noise * noise.to(latents)


def _reconstruction(decoded: Tensor, target: Tensor, weights: CodecLosses) -> Tensor:
    return weights.l1 * F.l1_loss(decoded, target) + weights.l2 * F.mse_loss(decoded, target)
