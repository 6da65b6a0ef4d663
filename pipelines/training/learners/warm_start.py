"""Weights that a stage starts from: those of earlier stages' exports, of which every rank reads its own pieces.

Whoever starts the ranks compares checksums, once (`model.checksums.check`); they compare sizes.

A joint model takes its video branch from the last video stage and its audio branch from the audio stage. What neither
has, the attention between them, keeps its initial values, and those close its gates: the joint model starts out
computing exactly what its two branches compute apart. A refiner takes the base's video branch (paper, section 4.5),
some layers of it where it has fewer, and all but the output layer where that states something else.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from model.checkpoint import StoredState, stored_config
from model.checksums import CheckpointError
from model.config import TransformerConfig
from model.costs.memory import meta_model
from model.network.refiner import base_layers

BRANCH_FIELDS = frozenset({"video_channels", "audio_channels"})
LATER_FIELDS = frozenset({"sparse", "sparse_cube", "sparse_min_tokens", "sparse_kernel"})
"""Of the config: what a refiner adds to its base."""
REFINERS_OWN = frozenset({"dual_blocks", "single_blocks", "prediction"})
"""What it may have otherwise than its base."""


def warm_start(config: TransformerConfig, folders: Sequence[str | Path]) -> "StartWeights":
    """Weights for a network of `config` from transformer folders, each tensor, or piece of one, read when asked for.

    Allowed are a network as it was, a video and an audio one into a joint one, and the video branch of any into a
    refiner. Raises CheckpointError, before anything is read, where the folders do not make up the network.
    """
    sources = [_Source.open(folder) for folder in folders]
    if not sources:
        return StartWeights({}, {})
    for source in sources:
        _check_sizes(config, source)
    _check_branches(config, sources)
    shapes = {name: tuple(parameter.shape) for name, parameter in meta_model(config).named_parameters()}
    origins: dict[str, _Origin] = {}
    for name in shapes:
        if _is_output(name) and any(source.config.prediction != config.prediction for source in sources):
            continue
        places = [_Origin(source, source.name_of(name, config)) for source in sources]
        found = [place for place in places if place.name in place.source.state]
        if found:
            origins[name] = found[0]
        elif not _is_new(name):
            folders_named = " and ".join(str(source.folder) for source in sources)
            raise CheckpointError(f"{folders_named} lacks {name}: export the stage again")
    return StartWeights(shapes, origins)


@dataclass(frozen=True)
class _Source:
    folder: Path
    config: TransformerConfig
    state: StoredState

    @classmethod
    def open(cls, folder: str | Path) -> "_Source":
        return cls(Path(folder), stored_config(TransformerConfig, folder), StoredState(folder))

    def name_of(self, name: str, config: TransformerConfig) -> str:
        """Under which name a parameter of a network of `config` is here."""
        if not name.startswith("layers."):
            return name
        _, number, rest = name.split(".", 2)
        return f"layers.{base_layers(config, self.config)[int(number)]}.{rest}"


class _Origin(NamedTuple):
    """A stored parameter."""

    source: _Source
    name: str


class StartWeights(Mapping[str, Tensor]):
    """Tensors of several folders, whole or in `Pieces`; modulations gain the rows towards the other branch as zeros, or
    lose them."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], origins: Mapping[str, _Origin]) -> None:
        self._shapes, self._origins = shapes, origins

    def __getitem__(self, name: str) -> Tensor:
        return self.piece(name, 0, math.prod(self._shapes[name])).reshape(self._shapes[name])

    def shape(self, name: str) -> tuple[int, ...]:
        """Without reading the tensor."""
        return self._shapes[name]

    def piece(self, name: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of the flattened tensor; what another rank holds is not read."""
        (source, stored_name), shape = self._origins[name], self._shapes[name]
        stored = source.state.shape(stored_name)
        if stored != shape and (".media_modulation." not in f".{name}" or stored[1:] != shape[1:]):
            raise CheckpointError(f"{name} in {source.folder} is {stored}, the network's is {shape}")
        held = math.prod(stored)
        found = source.state.piece(stored_name, min(start, held), min(stop, held))
        return torch.cat([found, found.new_zeros(stop - start - len(found))]) if len(found) < stop - start else found

    def __contains__(self, name: object) -> bool:
        return name in self._origins  # a mapping by itself would fetch the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._origins)

    def __len__(self) -> int:
        return len(self._origins)


def _check_sizes(config: TransformerConfig, source: _Source) -> None:
    """Everything but the branches and what a refiner has of its own must be equal."""
    mine, theirs = dataclasses.asdict(config), dataclasses.asdict(source.config)
    free = BRANCH_FIELDS | LATER_FIELDS | (REFINERS_OWN if _starts_refiner(config, source.config) else frozenset())
    apart = [name for name in mine if name not in free and mine[name] != theirs[name]]
    apart += [name for name in BRANCH_FIELDS if mine[name] and theirs[name] and mine[name] != theirs[name]]
    if apart:
        told = ", ".join(f"{name} {theirs[name]} instead of {mine[name]}" for name in sorted(apart))
        raise CheckpointError(
            f"{source.folder} was trained with another preset: {told}. Give the preset it was trained with, or train "
            "its stage anew with this one"
        )


def _check_branches(config: TransformerConfig, sources: Sequence[_Source]) -> None:
    wanted = _branches(config)
    found = sorted(_branches(source.config) for source in sources)
    fits = found == [wanted] or (wanted == "joint" and found == ["audio", "video"])
    if not fits and not (wanted == "refiner" and found in (["joint"], ["video"])):
        named = " and ".join(f"{source.folder} ({_branches(source.config)})" for source in sources)
        takes = {"joint": "a joint one, or one of video and one of audio", "refiner": "a joint, video or refiner one"}
        raise CheckpointError(
            f"a network of kind {wanted} cannot start from {named}: it takes {takes.get(wanted, f'a {wanted} one')}"
        )


def _branches(config: TransformerConfig) -> str:
    if config.joint:
        return "joint"
    if config.sparse:
        return "refiner"
    return "video" if config.video_channels else "audio"


def _starts_refiner(config: TransformerConfig, base: TransformerConfig) -> bool:
    """Whether a refiner begins: one that goes on from itself is as it was."""
    return _branches(config) == "refiner" and _branches(base) != "refiner"


def _is_output(name: str) -> bool:
    """The layer that states what a network predicts."""
    return ".head." in f".{name}"


def _is_new(name: str) -> bool:
    """Parameters that only exist between branches or with sparse attention."""
    return "_reads_" in name or ".cross_table" in name or ".coarse_gate." in name
