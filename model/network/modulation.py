"""Adaptive layer norm: a timestep per modality sets shift, scale and gate of every block.

The time embedding is projected once per branch; each block adds its own learned table to it, so modulation costs
a block a few vectors rather than a matrix. All of it runs in float32 (docs/decisions/0021).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.network.elementwise import elementwise

FREQUENCY_WIDTH = 256
TIMESTEP_SCALE = 1000.0


class Float32Linear(nn.Linear):
    """A linear layer that computes in float32 whatever precision its weights are kept in, autocast or not."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.float(), self.weight.float(), self.bias.float())


class TimeEmbedding(nn.Module):
    """Timesteps in [0, 1], 1 = clean, to (B, width) float32 through sinusoids and a two-layer MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = Float32Linear(FREQUENCY_WIDTH, width)
        self.second = Float32Linear(width, width)

    def forward(self, timesteps: Tensor) -> Tensor:
        return F.silu(self.second(F.silu(self.first(sinusoids(timesteps * TIMESTEP_SCALE)))))


def sinusoids(values: Tensor) -> Tensor:
    """(B,) to (B, 256): cosines and sines at wavelengths from 2 pi to 20000 pi."""
    half = FREQUENCY_WIDTH // 2
    frequencies = torch.exp(-math.log(10_000.0) / half * torch.arange(half, device=values.device, dtype=torch.float32))
    angles = values.float()[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), -1)


class ModulationProjection(Float32Linear):
    """(B, width) time embedding to (B, count, width) modulations; zero at init, so blocks start as the identity."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__(width, count * width)
        self.count = count
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, embedding: Tensor) -> Tensor:
        made: Tensor = super().forward(embedding).unflatten(-1, (self.count, -1))
        return made


class Vector(NamedTuple):
    """One modulation of a token sequence: `noisy` (B, 1, width) of all tokens but the first `references`.

    Those are clean at every step and follow `clean`, which is None where no rank has any. Never one vector per token:
    six of them in float32 would be more than all else that a layer holds (docs/decisions/0091).
    """

    noisy: Tensor
    clean: Tensor | None = None
    references: int = 0


@dataclass(frozen=True)
class Modulation:
    """What the timestep says to one token sequence: (B, count, width) of noisy ones, and of references before them."""

    noisy: Tensor
    clean: Tensor | None = None
    references: int = 0

    def with_table(self, table: Tensor) -> tuple[Vector, ...]:
        """`count` vectors, for a block's table (count, width)."""
        noisy = (self.noisy + table.float()).unsqueeze(2).unbind(1)
        if self.clean is None:
            return tuple(map(Vector, noisy))
        clean = (self.clean + table.float()).unsqueeze(2).unbind(1)
        return tuple(Vector(n, c, self.references) for n, c in zip(noisy, clean, strict=True))

    def select(self, start: int, stop: int) -> "Modulation":
        """The modulations `start` to `stop`."""
        clean = self.clean[:, start:stop] if self.clean is not None else None
        return Modulation(self.noisy[:, start:stop], clean, self.references)


@elementwise
def modulated_norm(x: Tensor, shift: Vector, scale: Vector) -> Tensor:
    """Layer norm over channels without weights of its own, then `* (1 + scale) + shift`, in float32."""
    normed = F.layer_norm(x.float(), x.shape[-1:], eps=1e-6)

    def modulated(normed: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return torch.addcmul(shift, normed, 1 + scale).to(x.dtype)

    return _by_slice(modulated, (normed,), (shift, scale))


@elementwise
def gated_residual(x: Tensor, update: Tensor, gate: Vector) -> Tensor:
    """x + gate * update, summed in float32."""

    def gated(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
        return torch.addcmul(x.float(), update.float(), gate).to(x.dtype)

    return _by_slice(gated, (x, update), (gate,))


def _by_slice(made: Callable[..., Tensor], tokens: Sequence[Tensor], vectors: Sequence[Vector]) -> Tensor:
    """`made` of tokens (B, N, width) and vectors (B, 1, width), once for the references and once for all after them.

    Also on a rank whose share of the sequence holds no references: partitioned weights are gathered by all ranks
    together, in the backward pass too, so all must lead back to the same ones.
    """
    count = vectors[0].references
    if vectors[0].clean is None:
        return made(*tokens, *(vector.noisy for vector in vectors))
    clean = made(*(part[:, :count] for part in tokens), *(vector.clean for vector in vectors))
    return torch.cat((clean, made(*(part[:, count:] for part in tokens), *(vector.noisy for vector in vectors))), 1)
