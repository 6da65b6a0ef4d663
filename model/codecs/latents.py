"""Latents at unit variance: measured statistics, and the identity of the codec they were measured on.

Video and audio losses are summed 1:1 (paper, section 3.1), which is only 1:1 where both latents have unit variance.
So every codec encodes to normalised latents and decodes from them, with statistics measured on real clips.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.checksums import read_json

STATISTICS_FILE = "latent_statistics.json"


@dataclass(frozen=True)
class LatentStatistics:
    """Mean and standard deviation per latent channel, over `count` latent vectors; (0, 1) where none was measured."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    count: int = 0

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise ValueError(f"latent statistics hold {len(self.mean)} means but {len(self.std)} standard deviations")
        if min(self.std) <= 0:
            dead = [channel for channel, std in enumerate(self.std) if std <= 0]
            raise ValueError(f"latent channels {dead} never vary: train the codec before measuring its latents")

    @classmethod
    def unmeasured(cls, channels: int) -> "LatentStatistics":
        """The identity normalisation, for a codec that is still being trained."""
        return cls((0.0,) * channels, (1.0,) * channels)

    @classmethod
    def load(cls, directory: str | Path) -> "LatentStatistics | None":
        """The statistics stored in a codec's folder; None where the folder has none."""
        path = Path(directory) / STATISTICS_FILE
        if not path.is_file():
            return None
        stored = read_json(path)
        return cls(tuple(stored["mean"]), tuple(stored["std"]), stored["count"])

    def save(self, directory: str | Path) -> None:
        """Write the statistics beside the codec's weights."""
        (Path(directory) / STATISTICS_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n")


class LatentNorm(nn.Module):
    """(z - mean) / std per channel, and back. The statistics are buffers that stay out of the state dict."""

    mean: Tensor
    std: Tensor

    def __init__(self, statistics: LatentStatistics) -> None:
        super().__init__()
        self.register_buffer("mean", torch.empty(0), persistent=False)
        self.register_buffer("std", torch.empty(0), persistent=False)
        self.set(statistics)

    def set(self, statistics: LatentStatistics) -> None:
        """Replace the statistics."""
        self.statistics = statistics
        self.mean = torch.tensor(statistics.mean, device=self.mean.device)
        self.std = torch.tensor(statistics.std, device=self.std.device)

    def normalise(self, latents: Tensor) -> Tensor:
        """(B, C, ...) as the codec makes them -> unit variance."""
        return (latents - self._like(self.mean, latents)) / self._like(self.std, latents)

    def denormalise(self, latents: Tensor) -> Tensor:
        """(B, C, ...) at unit variance -> as the codec's decoder wants them."""
        return latents * self._like(self.std, latents) + self._like(self.mean, latents)

    @staticmethod
    def _like(values: Tensor, latents: Tensor) -> Tensor:
        return values.to(latents).view(1, -1, *[1] * (latents.ndim - 2))


def measure_latents(encode: Callable[[Tensor], Tensor], clips: Iterable[Tensor]) -> LatentStatistics:
    """Statistics of `encode`'s un-normalised latents (B, C, ...) over `clips`, summed in float64."""
    total = squares = torch.zeros(())
    count = 0
    for clip in clips:
        with torch.no_grad():
            latents = encode(clip).double().transpose(0, 1).flatten(1)
        total, squares = total + latents.sum(1), squares + latents.square().sum(1)
        count += latents.shape[1]
    if count < 2:
        raise ValueError(f"latent statistics need at least 2 latent vectors, the clips given hold {count}")
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    return LatentStatistics(tuple(mean.tolist()), tuple(std.tolist()), count)


def weights_identity(config: Mapping[str, Any], state: Mapping[str, Tensor], elements: int | None = None) -> str:
    """16 hex digits that change with the configuration or the weights; caches carry them.

    `elements` bounds how many evenly spaced elements of each tensor are read, for models of many gigabytes.
    """
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name in sorted(state):
        flat = state[name].detach().flatten()
        digest.update(f"{name}:{tuple(state[name].shape)}:{flat.dtype}".encode())
        stride = max(1, flat.numel() // elements) if elements else 1
        digest.update(flat[::stride].cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
