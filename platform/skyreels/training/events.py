"""What a run tells its driver while it goes on."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Started:
    """Workers are up: at the beginning, and again after every restart or change of their number."""

    step: int
    """The first step to be done: 0, or where the checkpoint left off."""
    workers: int
    accumulation: int
    """Micro-batches that each data-parallel rank runs per step."""
    device: str
    parameters: int
    trainable_parameters: int
    state_bytes: int
    """Sharded state (weights, moments, averages) that rank 0 holds."""


@dataclass(frozen=True)
class StepDone:
    """A step was applied. `metrics` are named to be logged as they are: `loss`, `loss/…`, `lr`, `grad_norm`, …"""

    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class StepSkipped:
    """A step left everything as it was, because of what it met in the samples named."""

    step: int
    reason: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class SamplesUnreadable:
    """Samples that were replaced by others, each with the reason; `total` of the run's attempt so far."""

    step: int
    reasons: tuple[str, ...]
    total: int


@dataclass(frozen=True)
class CheckpointWritten:
    """A checkpoint is committed; `step` steps are in it."""

    step: int
    location: str
    bytes: int
    seconds: float


@dataclass(frozen=True)
class CheckpointDamaged:
    """A committed checkpoint differs from what its commit says; an older one is used."""

    step: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class SamplesWritten:
    """Validation samples of a step: their locations."""

    step: int
    files: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class HeldOut:
    """Losses on held-out samples after `step` steps: `start`, `trained`, `averaged`, as far as they are known."""

    step: int
    losses: Mapping[str, float]


Event = (
    Started
    | StepDone
    | StepSkipped
    | SamplesUnreadable
    | CheckpointWritten
    | CheckpointDamaged
    | SamplesWritten
    | HeldOut
)
