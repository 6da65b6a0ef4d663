"""The network of a stage: which branches of the preset's transformer it has, and which parameters learn."""

import dataclasses
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Literal

from torch import nn

from model.config import Preset, TransformerConfig
from model.network.refiner import refiner_config
from pipelines.training.tasks import Streams

Branches = Literal["video", "audio", "joint", "refiner"]

STREAMS: dict[Branches, Streams] = {
    "video": frozenset({"video"}),
    "audio": frozenset({"audio"}),
    "joint": frozenset({"video", "audio"}),
    "refiner": frozenset({"video"}),
}
"""What each kind of network can make."""


def network_config(preset: Preset, branches: Branches) -> TransformerConfig:
    """The preset's transformer with those branches alone."""
    if branches == "refiner":
        return refiner_config(preset.transformer, preset.refiner)
    kept = STREAMS[branches]
    return dataclasses.replace(
        preset.transformer,
        video_channels=preset.transformer.video_channels if "video" in kept else 0,
        audio_channels=preset.transformer.audio_channels if "audio" in kept else 0,
    )


def freeze(module: nn.Module, patterns: Iterable[str]) -> None:
    """Switch `requires_grad` off for parameters whose name matches one of the patterns, such as `layers.*.video.*`.

    Raises ValueError for a pattern that no parameter matches, and where nothing would be left to learn.
    """
    parameters = dict(module.named_parameters())
    for pattern in patterns:
        found = [name for name in parameters if fnmatchcase(name, pattern)]
        if not found:
            raise ValueError(f"freeze: no parameter matches {pattern!r}; names are such as {next(iter(parameters))}")
        for name in found:
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ValueError(f"freeze: {', '.join(patterns)} leave no parameter to learn")
