"""Rotary position embedding: three axes on video, one on audio, on one time axis counted in video latents.

Positions are real numbers, so references on negative times and audio between two video latents need no tables of
their own (paper, sections 3.1 and 3.3).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.network.elementwise import elementwise


@dataclass(frozen=True)
class RotaryTable:
    """Cosines and signed sines, float32, (..., N, head_width); leading dimensions broadcast against (B, heads)."""

    cos: Tensor
    sin: Tensor

    def then(self, other: "RotaryTable") -> "RotaryTable":
        """The tables of two token sequences one after the other."""
        lead = torch.broadcast_shapes(self.cos.shape[:-2], other.cos.shape[:-2])
        pairs = ((self.cos, other.cos), (self.sin, other.sin))
        cos, sin = (torch.cat([part.expand(*lead, *part.shape[-2:]) for part in pair], -2) for pair in pairs)
        return RotaryTable(cos, sin)


def axis_widths(head_width: int) -> tuple[int, int, int]:
    """How a head's channels are shared out to (time, height, width): two sixths to each side, the rest to time."""
    side = 2 * (head_width // 6)
    return head_width - 2 * side, side, side


def rotary_table(positions: Tensor, widths: tuple[int, ...], theta: float) -> RotaryTable:
    """Angles for `positions` (..., N, axes), `widths` channels for each axis, of frequencies theta^(-2i/width).

    Computed in float32 whatever the model's precision: bfloat16 cannot hold position 1000.
    """
    angles = []
    for axis, width in enumerate(widths):
        exponents = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width
        angles.append(positions[..., axis, None].float() * theta**-exponents)
    joined = torch.cat(angles, -1)
    cos, sin = joined.cos(), joined.sin()
    return RotaryTable(torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1))


@elementwise
def rotate(x: Tensor, table: RotaryTable) -> Tensor:
    """Rotate `x` (B, heads, N, head_width) by `table`; channel i pairs with channel i + head_width / 2."""
    if torch.compiler.is_compiling():
        return _rotate_halves(x, table)
    values = x.float()
    return torch.addcmul(values * table.cos, values.roll(x.shape[-1] // 2, -1), table.sin).to(x.dtype)


def _rotate_halves(x: Tensor, table: RotaryTable) -> Tensor:
    """The same to the bit. Compiled it takes a twentieth of the other's time on a CPU, op by op up to twice as long."""
    half = x.shape[-1] // 2
    parts = zip(*(part.split(half, -1) for part in (x.float(), table.cos, table.sin)), strict=True)
    (first, cos, sin), (second, cos_second, sin_second) = parts
    made = (torch.addcmul(first * cos, second, sin), torch.addcmul(second * cos_second, first, sin_second))
    return torch.cat([part.to(x.dtype) for part in made], -1)


def grid_positions(times: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(time, row, column) of every token of a T x H x W grid, (T * H * W, 3), time outermost."""
    return torch.stack(torch.meshgrid(times, rows, columns, indexing="ij"), -1).flatten(0, 2)


def reference_times(lengths: list[int], device: torch.device | None = None) -> Tensor:
    """Temporal index -N + i of reference latent i of N (paper, eq. 9); several references lie one after another."""
    total = sum(lengths)
    return torch.arange(-total, 0, device=device, dtype=torch.float32)


def audio_times(length: int, scale: float | Tensor, device: torch.device | None = None, references: int = 0) -> Tensor:
    """Times of `references` + `length` audio latents in video latents: index times `scale`, references negative.

    `scale` is `ClipShape.audio_time_scale`; a (B,) tensor of them gives (B, N) for clips of several lengths.
    """
    index = torch.arange(-references, length, device=device, dtype=torch.float32)
    if isinstance(scale, Tensor):
        return index * scale.to(index)[:, None]
    return index * scale
