"""What the engine trains: a module, batches that are a function of the step, and a loss.

The global batch of a step is `slots` micro-batches. Which rank runs which slot depends on how many ranks there are;
what is in a slot does not. So a run that resumes, on as many workers or on fewer, sees the same data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Slot:
    """One micro-batch of the global batch of step `step` (counted from 0): `index` in [0, slots)."""

    step: int
    index: int


class Batch(Protocol):
    """What `Trainable.batch` makes, on the CPU."""

    @property
    def keys(self) -> Sequence[str]:
        """Of its samples, to name them where a loss is not finite."""

    @property
    def skipped(self) -> Sequence[str]:
        """What could not be read and was replaced by other samples, in words: which file, and why."""

    @property
    def tokens(self) -> int: ...

    @property
    def flops(self) -> float:
        """Of one forward pass of this batch."""

    def to(self, device: torch.device) -> Self: ...


@dataclass(frozen=True)
class StepLoss:
    """A scalar to minimise, and what to log.

    `sums` maps names such as `loss/t2av/audio` to (sum, weight): the engine adds both over all slots and ranks and logs
    the quotient. Names must be the same on every rank in one step; a weight of 0 is not logged.
    """

    loss: Tensor
    sums: Mapping[str, tuple[Tensor | float, Tensor | float]] = field(default_factory=dict)


@runtime_checkable
class Pieces(Protocol):
    """Weights of which a part can be had without the whole: every rank then reads what it holds of each tensor."""

    def shape(self, name: str, /) -> tuple[int, ...]: ...

    def piece(self, name: str, start: int, stop: int, /) -> Tensor:
        """Elements [start, stop) of the flattened tensor."""


class Trainable(Protocol):
    """Made anew in every worker. All methods are functions of their arguments: no hidden state, no global generator."""

    @property
    def slots(self) -> int:
        """Micro-batches in a global batch; a multiple of the number of data-parallel ranks."""

    def build(self) -> nn.Module:
        """The module, parameters that do not train with `requires_grad` off. Called under `deepspeed.zero.Init`."""

    def initial_weights(self) -> Mapping[str, Tensor]:
        """Weights to start from, by parameter name, read when asked for; names left out keep `build`'s values.

        Where they are `Pieces` as well, a rank asks for its own piece of each parameter.
        """

    def batch(self, slot: Slot) -> Batch:
        """The samples of a slot with all that is random about them drawn. Runs in a thread ahead of the step."""

    def loss(self, module: nn.Module, batch: Any) -> StepLoss:
        """Forward. Every rank calls the same submodules in the same order within a step (ZeRO-3 gathers by module)."""

    def held_out(self) -> Sequence[Any]:
        """Batches of samples that no slot holds, the same at every call: what the run's ends are compared on."""

    def write_samples(self, module: nn.Module, step: int, folder: Path | None) -> None:
        """Make validation samples. All ranks call it and forward alike; `folder` is None on all but the first."""
