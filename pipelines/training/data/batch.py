"""One micro-batch as the engine takes it: what the model is given, what it shall say, how much each latent counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from model.network.inputs import JointInputs
from model.network.keyframes import KeyframeInput


@dataclass(frozen=True)
class Target:
    """What is learned of one stream: its velocity z_0 - eps, shaped as the noisy latents."""

    velocity: Tensor
    weight: Tensor
    """Broadcasts over `velocity`: 1 where latents are generated, less where they are kept."""


@dataclass(frozen=True)
class TrainingBatch:
    """B samples of one task and one bucket, with all randomness drawn. Implements `skyreels.training`'s Batch."""

    task: str
    inputs: JointInputs
    targets: Mapping[str, Target]
    """By stream: video, audio, keyframes. Streams that are given rather than generated have none."""
    keys: Sequence[str]
    skipped: Sequence[str] = ()
    tokens: int = 0
    """Media tokens of all samples, references included."""
    flops: float = 0.0

    def to(self, device: torch.device) -> "TrainingBatch":
        """The same with every tensor on `device`."""
        inputs = replace(
            self.inputs, **{f.name: _moved(getattr(self.inputs, f.name), device) for f in fields(self.inputs)}
        )
        targets = {
            stream: Target(_moved(target.velocity, device), _moved(target.weight, device))
            for stream, target in self.targets.items()
        }
        return replace(self, inputs=inputs, targets=targets)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, list | tuple):
        return type(value)(_moved(item, device) for item in value)
    if isinstance(value, KeyframeInput):
        return replace(value, latents=_moved(value.latents, device))
    return value
