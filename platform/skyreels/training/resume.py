"""Where a run starts: from its newest sound checkpoint, or from the weights it is given."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from skyreels.training.checkpoints import Checkpoints, PieceReader
from skyreels.training.config import EngineConfig
from skyreels.training.ema import ShardedEma
from skyreels.training.errors import TrainingError
from skyreels.training.events import CheckpointDamaged
from skyreels.training.one_device.whole import Held, WholeModule, load_whole
from skyreels.training.partition import bounds
from skyreels.training.trainable import Pieces, Trainable
from skyreels.training.zero import Read, Settings, build, load_pieces, partitioned, shape_of, wrap


@dataclass(frozen=True)
class State:
    """What a run starts with."""

    sharded: Held
    ema: ShardedEma | None
    step: int
    """Steps that are done."""
    norms: tuple[float, ...]
    """Gradient norms of the last ones."""
    held_out: Mapping[str, float]
    """Losses on held-out samples that were measured before."""


def start(
    trainable: Trainable,
    config: EngineConfig,
    settings: Settings | None,
    accumulation: int,
    checkpoints: Checkpoints,
    announce: Callable[[CheckpointDamaged], None],
    device: torch.device,
) -> State:
    """Build the module on all ranks and fill it from the newest sound checkpoint, or with its initial weights.

    Without settings of DeepSpeed it is whole, on `device`.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    if settings:
        module, settings = build(trainable, config, settings, accumulation)
    else:
        torch.manual_seed(config.seed)
        module = trainable.build()
    reader = newest_sound(checkpoints, announce)
    if reader is not None:
        check_same(reader, module, config.ema is not None, checkpoints.location(reader.facts.step))
    source, frozen = _sources(reader, trainable, module)

    def read(kind: str, name: str, start: int, stop: int) -> Tensor | None:
        return (frozen if kind == "frozen" else source).read(kind, name, start, stop)

    sharded: Held
    if settings:
        load_pieces(module, read, rank, world)
        sharded = wrap(module, config, settings)
    else:
        load_whole(module, read)
        sharded = WholeModule(module, config, accumulation, device)
    load_buffers(module, source.buffers())
    fill(sharded, sharded.flat_state(), source.read, rank, world)
    ema = ShardedEma(sharded.flat_weights, config.ema) if config.ema is not None else None
    if reader is None:
        return State(sharded, ema, 0, (), {})
    sharded.updates = reader.facts.updates
    if ema:
        fill(sharded, {"ema": ema.averages}, reader.read, rank, world)
    reader.close()
    return State(sharded, ema, reader.facts.step, reader.facts.norms, reader.facts.held_out)


@torch.no_grad()
def fill(held: Held, flats: Mapping[str, list[Tensor]], read: Read, rank: int, world: int) -> None:
    """Fill flat partitions, by kind as in `flat_state`, with this rank's pieces of the trainable parameters."""
    shapes = held.shapes()
    for name, place in held.places().items():
        start, stop = bounds(shapes[name].numel(), rank, world)
        for kind, groups in flats.items():
            values = read(kind, name, start, stop)
            if values is not None:
                groups[place.group].narrow(0, place.offset, stop - start).copy_(values)


def newest_sound(checkpoints: Checkpoints, announce: Callable[[CheckpointDamaged], None]) -> PieceReader | None:
    """A reader of the newest checkpoint whose files are as committed; None where a run has none at all.

    Each rank checks the files that it will read. Those that fail are deleted once a sound one is found; where none is,
    all stay as they are, for there may be a copy to restore from.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    if rank == 0:
        checkpoints.sweep()
    offer = _from_first(checkpoints.steps() if rank == 0 else None)
    found: list[str] = []
    damaged: list[int] = []
    for step in reversed(offer):
        reader, problems = _open(checkpoints, step, rank, world)
        reports: list[Any] = [None] * world
        dist.all_gather_object(reports, problems)
        found = sorted({problem for report in reports for problem in report})
        if not found:
            for later in damaged if rank == 0 else ():
                checkpoints.discard(later)
            return reader
        damaged.append(step)
        if rank == 0:
            announce(CheckpointDamaged(step, tuple(found)))
    if offer:
        raise TrainingError(
            f"none of the checkpoints in {checkpoints.storage.root} is sound; of the oldest: {'; '.join(found[:4])}. "
            "Restore one from a copy, or start in another folder"
        )
    return None


def check_same(reader: PieceReader, module: nn.Module, ema: bool, where: str) -> None:
    """Raise unless a checkpoint is of this module, with the same parameters training."""
    facts = reader.facts
    shapes = {name: tuple(shape_of(param)) for name, param in partitioned(module)}
    frozen = {name for name, param in module.named_parameters() if not param.requires_grad}
    different = [name for name in shapes.keys() | facts.shapes.keys() if shapes.get(name) != facts.shapes.get(name)]
    if different:
        name = sorted(different)[0]
        raise TrainingError(
            f"{where} is of another model: {len(different)} parameters differ, first {name}: there "
            f"{facts.shapes.get(name, 'absent')}, here {shapes.get(name, 'absent')}. Train with the preset that it was "
            "made with, or in another folder"
        )
    moved = sorted(frozen ^ set(facts.frozen))
    if moved:
        raise TrainingError(
            f"{where} was trained with other parameters frozen: {len(moved)} differ, first {moved[0]}. Go on with the "
            "same choice of what trains, or start in another folder"
        )
    if ema and not facts.ema:
        raise TrainingError(f"{where} holds no averaged weights: go on with ema null, or start in another folder")


class InitialWeights:
    """Given weights, as a checkpoint would be read."""

    def __init__(self, weights: Mapping[str, Tensor], module: nn.Module) -> None:
        self._weights = weights
        names = {name for name, _ in module.named_parameters()} | {name for name, _ in module.named_buffers()}
        unknown = sorted(set(weights) - names)
        if unknown:
            raise TrainingError(
                f"the initial weights hold {len(unknown)} tensors that the module has not, first {unknown[0]}: "
                "they are of another model"
            )
        self._shapes = {name: tuple(shape_of(param)) for name, param in partitioned(module)}
        self._last: tuple[str, Tensor] | None = None

    def read(self, kind: str, name: str, start: int, stop: int) -> Tensor | None:
        if kind not in ("weight", "frozen") or name not in self._weights:
            return None
        if isinstance(self._weights, Pieces):
            self._check(name, self._weights.shape(name))
            return self._weights.piece(name, start, stop)
        if self._last is None or self._last[0] != name:
            self._last = (name, self._checked(name))
        return self._last[1].reshape(-1)[start:stop]

    def buffers(self) -> dict[str, Tensor]:
        return {name: self._weights[name] for name in self._weights if name not in self._shapes}

    def _checked(self, name: str) -> Tensor:
        tensor = self._weights[name]
        self._check(name, tuple(tensor.shape))
        return tensor

    def _check(self, name: str, shape: tuple[int, ...]) -> None:
        if shape != self._shapes[name]:
            raise TrainingError(f"initial weight {name} is {shape}; the module's is {self._shapes[name]}")


def load_buffers(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    buffers = dict(module.named_buffers())
    for name, value in values.items():
        buffers[name].copy_(value)


def _sources(
    reader: PieceReader | None, trainable: Trainable, module: nn.Module
) -> tuple["PieceReader | InitialWeights", "PieceReader | InitialWeights"]:
    """Of the parameters that train, and of those that do not."""
    if reader is not None and reader.facts.holds_frozen:
        return reader, reader
    given = InitialWeights(trainable.initial_weights(), module)
    return reader or given, given


def _open(checkpoints: Checkpoints, step: int, rank: int, world: int) -> tuple[PieceReader | None, list[str]]:
    try:
        reader = PieceReader(checkpoints, step)
    except ValueError as error:
        return None, [str(error)]
    return reader, checkpoints.problems(step, reader.ranks_of(rank, world))


def _from_first(value: Any) -> Any:
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]
