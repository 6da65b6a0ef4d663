"""Lip sync by a learned model: distances between mouth and sound embeddings over shifts.

The shape of SyncNet (Chung & Zisserman, "Out of time", 2016): two convolutional towers over 0.2 s windows, compared
by Euclidean distance; the offset is the shift with the least mean distance and the confidence is median less minimum.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.audio_utils import mel_filter_bank

from pipelines.curation.audio.resample import mono_at
from pipelines.curation.sync import SyncScores

FPS = 25.0
RATE = 16000
MEL_HOP = 160  # 100 spectra a second, four per picture
WINDOW_FRAMES = 5
MEL_PER_FRAME = 4


class SyncModel(Protocol):
    """Anything that measures lip sync from mouth crops (T, H, W, 3) uint8 at 25 per second and sound (C, N)."""

    def measure(self, mouths: np.ndarray, samples: np.ndarray, sample_rate: int) -> SyncScores | None: ...


@dataclass(frozen=True)
class SyncNetConfig:
    mel_bins: int = 80
    mouth_size: int = 112
    width: int = 64
    embedding: int = 512
    max_shift: int = 15  # frames


class SyncNet(nn.Module):
    """Embeds 5 mouth crops and the 0.2 s of sound around them into one space, (B, D) each, of unit length."""

    filters: Tensor  # (201, mel_bins)

    def __init__(self, config: SyncNetConfig) -> None:
        super().__init__()
        self.config = config
        self.see = _tower(3 * WINDOW_FRAMES, config.width, config.embedding)
        self.hear = _tower(1, config.width, config.embedding)
        filters = mel_filter_bank(201, config.mel_bins, 0.0, RATE / 2, RATE, norm="slaney", mel_scale="slaney")
        self.register_buffer("filters", torch.from_numpy(filters).float(), persistent=False)

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> "SyncNet":
        """From `config.json` and `model.safetensors` in a local folder."""
        config = SyncNetConfig(**json.loads((Path(folder) / "config.json").read_text("utf-8")))
        model = cls(config)
        model.load_state_dict(load_file(Path(folder) / "model.safetensors"))
        return model.to(device).eval()

    def save(self, folder: str | Path) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "config.json").write_text(json.dumps(asdict(self.config), indent=2) + "\n", "utf-8")
        save_file(self.state_dict(), Path(folder) / "model.safetensors")

    def embed_mouths(self, mouths: Tensor) -> Tensor:
        """(B, 5, 3, H, W) in [0, 1] -> (B, D)."""
        return F.normalize(self.see(mouths.flatten(1, 2) - 0.5), dim=-1)

    def embed_sound(self, mel: Tensor) -> Tensor:
        """(B, mel_bins, 20) log mel -> (B, D)."""
        return F.normalize(self.hear(mel[:, None]), dim=-1)

    def log_mel(self, mono: Tensor) -> Tensor:
        """(N,) at 16 kHz -> (mel_bins, N / 160 + 1), zero mean over the clip."""
        window = torch.hann_window(400, device=mono.device)
        spectrum = torch.stft(mono, 400, MEL_HOP, window=window, return_complex=True).abs().square()
        mel = (self.filters.T @ spectrum + 1e-6).log()
        return mel - mel.mean()

    @torch.inference_mode()
    def measure(self, mouths: np.ndarray, samples: np.ndarray, sample_rate: int) -> SyncScores | None:
        """Offset and confidence of a clip; None if it is shorter than the shifts that are tried need (1.4 s)."""
        device = self.filters.device
        mel = self.log_mel(torch.from_numpy(mono_at(samples, sample_rate, RATE)).to(device))
        heard = mel.unfold(1, WINDOW_FRAMES * MEL_PER_FRAME, MEL_PER_FRAME).transpose(0, 1)
        pictures = torch.from_numpy(mouths).to(device).permute(0, 3, 1, 2).float() / 255
        size = (self.config.mouth_size, self.config.mouth_size)
        pictures = F.interpolate(pictures, size, mode="bilinear", antialias=True)
        seen = pictures.unfold(0, WINDOW_FRAMES, 1).permute(0, 4, 1, 2, 3)
        n = min(len(seen), len(heard))
        if n <= 2 * self.config.max_shift:
            return None
        video = torch.cat([self.embed_mouths(part) for part in seen[:n].split(64)])
        audio = torch.cat([self.embed_sound(part) for part in heard[:n].split(64)])
        return sync_from_embeddings(video, audio, self.config.max_shift)


def sync_from_embeddings(video: Tensor, audio: Tensor, max_shift: int) -> SyncScores:
    """Compare video[t] with audio[t + shift], (T, D) each at 25 per second, for every shift up to `max_shift`.

    A positive offset means that the sound comes late. `peak` and `runner_up` are mean distances below zero.
    """
    n = len(video)
    distances = torch.stack(
        [
            (video[max(0, -shift) : n - max(0, shift)] - audio[max(0, shift) : n + min(0, shift)]).norm(dim=-1).mean()
            for shift in range(-max_shift, max_shift + 1)
        ]
    )
    best = int(distances.argmin())
    others = torch.cat([distances[: max(0, best - 2)], distances[best + 3 :]])
    return SyncScores(
        offset_s=(best - max_shift) / FPS,
        offset_frames=float(best - max_shift),
        confidence=float(distances.median() - distances[best]),
        peak=-float(distances[best]),
        runner_up=-float(others.min()),
        method="syncnet",
    )


def _tower(channels: int, width: int, embedding: int) -> nn.Sequential:
    """Four halvings and a pooled projection: (B, channels, h, w) -> (B, embedding)."""
    layers: list[nn.Module] = []
    for step in range(4):
        out = width * 2**step
        layers += [nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, embedding))
