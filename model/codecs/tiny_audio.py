"""A light audio codec at the latent rate of 44.1 kHz / 1024: log magnitudes in, log magnitudes out, then a vocoder.

The shape of the MMAudio codec (an autoencoder of spectrograms and a vocoder) without weights to download: the vocoder
is fast Griffin-Lim (Perraudin et al., 2013), which needs no training. Phase is the part of a waveform that a
small network learns last; magnitudes alone are learned in seconds, on any sound.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from model.codecs.latents import LatentStatistics
from model.codecs.light import LightCodec
from model.shapes import AudioCodecSpec

FLOOR = 1e-2  # magnitude, about 90 dB below a full-scale tone: quieter bins count as silent
CENTRE, SCALE = -2.0, 2.0  # bring log magnitudes near zero mean and unit variance for the network


@dataclass(frozen=True)
class TinyAudioConfig:
    """`hop` is samples per latent, `window` samples per spectrum, `spectra` spectra per latent."""

    channels: int = 32
    sample_rate: int = 44100
    hop: int = 1024
    stereo: bool = True
    window: int = 1024
    spectra: int = 4
    width: int = 192
    spectrum_width: int = 96
    depth: int = 1
    vocoder_iterations: int = 32


class TinyAudioCodec(LightCodec):
    """Waveforms (B, 1 or 2, samples) in [-1, 1] <-> latents (B, C, samples // hop) at unit variance."""

    config: TinyAudioConfig
    config_class = TinyAudioConfig

    def __init__(self, config: TinyAudioConfig, statistics: LatentStatistics | None = None) -> None:
        super().__init__(config, statistics)
        self.spec = AudioCodecSpec(config.channels, config.sample_rate, config.hop, config.stereo)
        self.spectrum = Spectrum(config.window, config.hop // config.spectra)
        self.encoder = _Encoder(config)
        self.decoder = _Decoder(config)

    @torch.no_grad()
    def encode(self, waveform: Tensor) -> Tensor:
        """The latents, normalised. Samples after the last whole latent are left out."""
        return self.norm.normalise(self.raw_latents(waveform))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Waveform (B, 1 or 2, L * hop) in [-1, 1]."""
        loudness = self.reconstruct(self.norm.denormalise(latents))
        return self.spectrum.vocode(magnitudes(loudness), self.config.vocoder_iterations).clamp(-1, 1)

    def loudness(self, waveform: Tensor) -> Tensor:
        """Scaled log magnitudes (B, A, bins, n) of the whole latents in a waveform: what the network codes."""
        length = self.spec.latent_length(waveform.shape[-1])
        if length < 1:
            raise ValueError(
                f"{waveform.shape[-1]} samples are shorter than one audio latent ({self.spec.hop} samples)"
            )
        spectra: Tensor = self.spectrum(waveform[..., : length * self.spec.hop])
        return ((spectra.abs() + FLOOR).log() - CENTRE) / SCALE

    def raw_latents(self, waveform: Tensor) -> Tensor:
        """Latents (B, C, L) that are not normalised; differentiable."""
        out: Tensor = self.encoder(self.loudness(waveform))
        return out

    def reconstruct(self, latents: Tensor) -> Tensor:
        """Scaled log magnitudes of latents that are not normalised; differentiable."""
        out: Tensor = self.decoder(latents)
        return out


def magnitudes(loudness: Tensor) -> Tensor:
    """Scaled log magnitudes -> magnitudes, never negative."""
    return ((loudness * SCALE + CENTRE).clamp(max=7.0).exp() - FLOOR).clamp(min=0)  # e^7: above a full-scale tone


class Spectrum(nn.Module):
    """Waveform (B, A, n * hop) <-> n complex spectra (B, A, window / 2 + 1, n), nothing added beyond the ends."""

    window: Tensor

    def __init__(self, window: int, hop: int) -> None:
        super().__init__()
        self.hop = hop
        self.margin = (window - hop) // 2
        # Never on meta: there this one operator is made of Python, which imports torch's compiler for 1.4 s.
        made = torch.hann_window(window, device="cpu").to(torch.get_default_device())
        self.register_buffer("window", made, persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        frames = F.pad(waveform, (self.margin, self.margin)).unfold(-1, len(self.window), self.hop)
        made: Tensor = torch.fft.rfft(frames * self.window, dim=-1).transpose(-1, -2)
        return made

    def inverse(self, spectra: Tensor) -> Tensor:
        """Windowed overlap-add, divided by the overlapped squared windows."""
        frames = torch.fft.irfft(spectra.transpose(-1, -2), n=len(self.window), dim=-1) * self.window
        envelope = self._overlap_add(self.window.square().expand(1, 1, spectra.shape[-1], -1))
        return self._overlap_add(frames) / envelope

    def vocode(self, magnitude: Tensor, iterations: int, momentum: float = 0.99) -> Tensor:
        """Waveform with the given magnitudes (B, A, bins, n), by fast Griffin-Lim.

        Phase is found for the mean of the channels and shared by them, so what is panned stays in place. Every bin
        starts at its own centre frequency's phase, so the same magnitudes give the same samples.
        """
        target = magnitude.mean(1, keepdim=True)
        bins, count = target.shape[-2:]
        steps = torch.outer(torch.arange(bins), torch.arange(count)).to(target) * self.hop
        phase = torch.polar(torch.ones_like(target), 2 * torch.pi * (steps % len(self.window)) / len(self.window))
        previous = torch.zeros_like(phase)
        for _ in range(iterations):
            consistent = self(self.inverse(target * phase))
            ahead = consistent + momentum * (consistent - previous)
            phase, previous = ahead / ahead.abs().clamp(min=1e-8), consistent
        return self.inverse(magnitude * phase)

    def _overlap_add(self, frames: Tensor) -> Tensor:
        batch, channels, count, window = frames.shape
        length = (count - 1) * self.hop + window
        columns = rearrange(frames, "b a n w -> (b a) w n")
        added = F.fold(columns, (1, length), (1, window), stride=(1, self.hop))
        return added.view(batch, channels, length)[..., self.margin : length - self.margin]


class _Encoder(nn.Module):
    def __init__(self, config: TinyAudioConfig) -> None:
        super().__init__()
        self.spectra = config.spectra
        self.bins_in = nn.Conv1d(_features(config), config.spectrum_width, 1)
        self.fold = nn.Conv1d(config.spectrum_width * config.spectra, config.width, 1)
        self.blocks = nn.Sequential(*[_Block(config.width) for _ in range(config.depth)])
        self.out = nn.Conv1d(config.width, config.channels, 1)

    def forward(self, loudness: Tensor) -> Tensor:
        """(B, A, bins, n) -> (B, C, L)."""
        spectra = self.bins_in(rearrange(loudness, "b a f n -> b (a f) n"))
        cells = self.fold(rearrange(spectra, "b c (t s) -> b (c s) t", s=self.spectra))
        out: Tensor = self.out(self.blocks(cells))
        return out


class _Decoder(nn.Module):
    def __init__(self, config: TinyAudioConfig) -> None:
        super().__init__()
        self.spectra, self.audio_channels = config.spectra, 2 if config.stereo else 1
        self.embed = nn.Conv1d(config.channels, config.width, 1)
        self.blocks = nn.Sequential(*[_Block(config.width) for _ in range(config.depth)])
        self.unfold = nn.Conv1d(config.width, config.spectrum_width * config.spectra, 1)
        self.bins_out = nn.Conv1d(config.spectrum_width, _features(config), 1)

    def forward(self, latents: Tensor) -> Tensor:
        """(B, C, L) -> (B, A, bins, L * spectra)."""
        cells = self.unfold(self.blocks(self.embed(latents)))
        spectra = F.gelu(rearrange(cells, "b (c s) t -> b c (t s)", s=self.spectra))
        made: Tensor = rearrange(self.bins_out(spectra), "b (a f) n -> b a f n", a=self.audio_channels)
        return made


class _Block(nn.Module):
    """ConvNeXt in one dimension: depthwise convolution, norm over channels, widening MLP, residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv1d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 2 * width)
        self.narrow = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.mix(x).transpose(1, 2))
        out: Tensor = x + self.narrow(F.gelu(self.widen(hidden))).transpose(1, 2)
        return out


def _features(config: TinyAudioConfig) -> int:
    """Magnitudes in one spectrum of all audio channels."""
    return (config.window // 2 + 1) * (2 if config.stereo else 1)
