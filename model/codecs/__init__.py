"""Codecs between pixels or samples and latents, behind one protocol each.

Lengths, strides and rates are properties of a codec (`spec`), never literals; latents have unit variance.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from torch import Tensor

from model.codecs.latents import LatentNorm
from model.shapes import AudioCodecSpec, VideoCodecSpec


class VideoCodec(Protocol):
    """Frames (B, 3, F, H, W) in [-1, 1] <-> latents (B, C, T, H / stride, W / stride) at unit variance."""

    spec: VideoCodecSpec
    norm: LatentNorm

    @property
    def identity(self) -> str:
        """16 hex digits that change with configuration, weights or normalisation; caches of latents carry them."""

    def encode(self, frames: Tensor) -> Tensor:
        """Latents of whole-latent frames; deterministic (the posterior's mean)."""

    def decode(self, latents: Tensor) -> Tensor:
        """Frames in [-1, 1], all at once."""

    def decode_parts(self, latents: Tensor) -> Iterator[Tensor]:
        """The same frames (B, 3, f, H, W), some after the others: in bounded memory at any length and size."""

    def save(self, directory: str | Path) -> None:
        """Write config.json, the weights and the latent statistics."""


class AudioCodec(Protocol):
    """Waveforms (B, 1 or 2, samples) in [-1, 1] <-> latents (B, C, L) at unit variance, L = samples // hop."""

    spec: AudioCodecSpec
    norm: LatentNorm

    @property
    def identity(self) -> str:
        """16 hex digits that change with configuration, weights or normalisation; caches of latents carry them."""

    def encode(self, waveform: Tensor) -> Tensor:
        """Latents; samples after the last whole latent are left out. Deterministic."""

    def decode(self, latents: Tensor) -> Tensor:
        """Waveform of L * hop samples."""

    def save(self, directory: str | Path) -> None:
        """Write config.json, the weights and the latent statistics."""
