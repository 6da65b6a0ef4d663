"""The network of a stage: which branches of the preset's transformer it has, and which parameters learn."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal

from torch import nn

from model.config import Preset, TransformerConfig
from model.network.refiner import refiner_config
from pipelines.training.tasks import Streams
from skyreels.config import ConfigError, suggest

Branches = Literal["video", "audio", "joint", "refiner"]

STREAMS: dict[Branches, Streams] = {
    "video": frozenset({"video"}),
    "audio": frozenset({"audio"}),
    "joint": frozenset({"video", "audio"}),
    "refiner": frozenset({"video"}),
}
"""What each kind of network can make."""

PARAMETER_GROUPS: Mapping[str, Sequence[str]] = {
    "video": ("video.*", "layers.*.video.streams.*", "layers.*.video.text_*"),
    "audio": ("audio.*", "layers.*.audio.streams.*", "layers.*.audio.text_*"),
    "between": ("layers.*_reads_*", "layers.*.cross_table"),
}
"""Patterns of names: each branch as it is alone, and what a joint network has between the two. Every parameter of every
network is in one of them."""


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


def freeze(module: nn.Module, wanted: Iterable[str]) -> None:
    """Switch `requires_grad` off for the parameters that `frozen` names; raises as that does."""
    parameters = dict(module.named_parameters())
    for name in frozen(parameters, wanted):
        parameters[name].requires_grad_(False)


def frozen(names: Iterable[str], wanted: Iterable[str]) -> frozenset[str]:
    """Those of a network's parameters that are in one of the groups, or match one of the patterns (`layers.0.*`).

    Raises ConfigError for a group or pattern that no parameter is of, and where nothing would be left to learn.
    """
    names, wanted = tuple(names), tuple(wanted)
    matched: set[str] = set()
    for one in wanted:
        found = {name for name in names for pattern in PARAMETER_GROUPS.get(one, (one,)) if fnmatchcase(name, pattern)}
        if not found:
            raise ConfigError(
                f"freeze: no parameter of this network matches {one!r}; groups: {', '.join(PARAMETER_GROUPS)}; names "
                f"are such as {names[0]}{suggest(one, list(PARAMETER_GROUPS))}"
            )
        matched |= found
    if len(matched) == len(names):
        raise ConfigError(f"freeze: {', '.join(wanted)} leave no parameter to learn: name fewer of them")
    return frozenset(matched)
