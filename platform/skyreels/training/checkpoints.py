"""Checkpoints of a run: which there are, which one counts, and reading them.

    <run>/checkpoints/step-00000200/rank-00000.safetensors   each rank's pieces, keyed `<kind>/<parameter>`
    <run>/checkpoints/_commits/step-00000200.json            names and checksums of all of them, written last

A checkpoint exists when its commit record does. Kinds: weight (fp32), exp_avg, exp_avg_sq, ema, frozen (parameters that
do not train, in the training precision) and, in the first rank's file, buffer. See docs/decisions/0040.
"""

import logging
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import safe_open
from torch import Tensor

from skyreels.commits import Commit, CommitLog, CommittedFile, verify
from skyreels.leftovers import scratch_folder
from skyreels.storage import DamageError, Storage, join, local_copy
from skyreels.training.errors import TrainingError
from skyreels.training.events import CheckpointDamaged
from skyreels.training.held_out import AVERAGED, TRAINED, better
from skyreels.training.partition import bounds, spans

logger = logging.getLogger(__name__)

_STEP = re.compile(r"step-[0-9]+")


class CheckpointFacts(BaseModel):
    """What a checkpoint's commit says beside its files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    """Steps that are done, so also the position in the data."""
    world: int
    updates: int
    """Steps that changed the weights."""
    norms: tuple[float, ...]
    """Recent gradient norms, which the guard compares with."""
    shapes: dict[str, tuple[int, ...]]
    frozen: tuple[str, ...]
    """Parameters that do not train."""
    holds_frozen: bool = True
    ema: bool
    held_out: dict[str, float] = Field(default_factory=dict)
    """Losses on held-out samples, those that are finite: of the start, and at the end of both kinds of weights."""

    def numel(self, name: str) -> int:
        return int(torch.Size(self.shapes[name]).numel())


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run."""

    storage: Storage

    @classmethod
    def of(cls, run: str) -> Self:
        return cls(Storage(join(run, "checkpoints")))

    @property
    def log(self) -> CommitLog:
        return CommitLog(self.storage)

    def steps(self) -> list[int]:
        """Of the committed checkpoints, ascending; other files beside their records are passed over."""
        return sorted(int(part.removeprefix("step-")) for part in self.log.done() if _STEP.fullmatch(part))

    def latest(self) -> int | None:
        return max(self.steps(), default=None)

    def location(self, step: int) -> str:
        return self.storage.location(folder(step))

    def facts(self, step: int) -> CheckpointFacts:
        return CheckpointFacts.model_validate(self.log.read(folder(step)).facts)

    def problems(self, step: int, ranks: Iterable[int]) -> list[str]:
        """What does not hold of the files that these ranks wrote, in words."""
        commit = self.log.read(folder(step))
        wanted = {rank_file(step, rank) for rank in ranks}
        return verify(self.storage, commit.model_copy(update={"files": [f for f in commit.files if f.name in wanted]}))

    def damage(self, step: int) -> list[str]:
        """What does not hold of a checkpoint, in words: of its record and of every file."""
        try:
            return verify(self.storage, self.log.read(folder(step)))
        except DamageError as error:
            return [str(error)]

    def newest_sound(self, announce: Callable[[CheckpointDamaged], None]) -> int | None:
        """The newest step whose files are as committed, every byte of them; the damaged ones after it are announced."""
        for step in reversed(self.steps()):
            problems = self.damage(step)
            if not problems:
                return step
            announce(CheckpointDamaged(step, tuple(problems)))
        return None

    def commit(self, facts: CheckpointFacts, files: Iterable[CommittedFile]) -> None:
        self.log.commit(Commit(part_id=folder(facts.step), files=tuple(files), facts=facts.model_dump(mode="json")))

    def retain(self, keep: int) -> None:
        """Delete all but the newest `keep`; a commit goes before its files, so none ever names a missing file.

        What cannot be deleted costs a warning: it holds nothing up but its room.
        """
        for step in self.steps()[:-keep]:
            try:
                self.discard(step)
            except OSError as error:
                logger.warning("the checkpoint of step %d could not be deleted: %s", step, error)

    def discard(self, step: int) -> None:
        self.log.revoke(folder(step))
        self._delete_files(folder(step))

    def sweep(self) -> None:
        """Delete what killed attempts left uncommitted. Only while nobody writes."""
        done = self.log.done()
        left = {name.split("/")[0] for name in self.storage.names()}
        if self.storage.is_local and Path(self.storage.root).is_dir():  # of a kill in time nothing is listed
            left |= {path.name for path in Path(self.storage.root).iterdir() if path.is_dir()}
        for name in sorted(left - done):
            if _STEP.fullmatch(name):
                self._delete_files(name)

    def _delete_files(self, name: str) -> None:
        """All of a step's folder: what file browsers and killed attempts hid in it as well."""
        if self.storage.is_local:
            path = Path(self.storage.location(name))
            if path.exists():
                shutil.rmtree(path)
            return
        for file in self.storage.names(name):
            self.storage.delete(file)


def folder(step: int) -> str:
    return f"step-{step:08d}"


def rank_file(step: int, rank: int) -> str:
    return f"{folder(step)}/rank-{rank:05d}.safetensors"


class PieceReader:
    """Any elements of any tensor of a checkpoint, whatever the world size that wrote it. Close it."""

    def __init__(self, checkpoints: Checkpoints, step: int) -> None:
        self.facts = checkpoints.facts(step)
        self._storage = checkpoints.storage
        self._stack = ExitStack()
        self._files: dict[int, Any] = {}

    def read(self, kind: str, name: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of the flattened tensor."""
        parts = [
            self._file(span.rank).get_slice(f"{kind}/{name}")[span.start : span.stop]
            for span in spans(self.facts.numel(name), start, stop, self.facts.world)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts) if parts else torch.empty(0)

    def whole(self, kind: str, name: str) -> Tensor:
        """A parameter in its own shape."""
        return self.read(kind, name, 0, self.facts.numel(name)).reshape(self.facts.shapes[name])

    def buffers(self) -> dict[str, Tensor]:
        """Persistent buffers of the module, by name."""
        file = self._file(0)
        keys = [key for key in file.keys() if key.startswith("buffer/")]  # noqa: SIM118 (not a dict)
        return {key.removeprefix("buffer/"): file.get_tensor(key) for key in keys}

    def ranks_of(self, rank: int, world: int) -> set[int]:
        """The ranks whose files hold what `rank` of `world` needs; the first one's holds the buffers."""
        needed = {0}
        for name in self.facts.shapes:
            numel = self.facts.numel(name)
            needed |= {span.rank for span in spans(numel, *bounds(numel, rank, world), self.facts.world)}
        return needed

    def _file(self, rank: int) -> Any:
        if rank not in self._files:
            location = self._storage.location(rank_file(self.facts.step, rank))
            scratch = self._stack.enter_context(scratch_folder("checkpoint"))
            path = self._stack.enter_context(local_copy(location, scratch))
            self._files[rank] = self._stack.enter_context(safe_open(path, framework="pt"))
        return self._files[rank]

    def close(self) -> None:
        self._files.clear()
        self._stack.close()


class Weights(Mapping[str, Tensor]):
    """Consolidated parameters and buffers that a checkpoint holds, by name, each read when asked for."""

    def __init__(self, reader: PieceReader, ema: bool) -> None:
        self._reader = reader
        self._kind = "ema" if ema else "weight"
        self._frozen = set(reader.facts.frozen)
        left_out = set() if reader.facts.holds_frozen else self._frozen
        self._names = [name for name in reader.facts.shapes if name not in left_out]
        self._buffers = reader.buffers()

    def __getitem__(self, name: str) -> Tensor:
        if name in self._buffers:
            return self._buffers[name]
        if name not in self._names:
            raise KeyError(name)
        return self._reader.whole("frozen" if name in self._frozen else self._kind, name)

    def __contains__(self, name: object) -> bool:
        return name in self._names or name in self._buffers  # a mapping by itself would fetch the tensor

    def __iter__(self) -> Iterator[str]:
        yield from self._names
        yield from self._buffers

    def __len__(self) -> int:
        return len(self._names) + len(self._buffers)


class OpenCheckpoint:
    """A committed checkpoint, for reading outside of a run. A context manager."""

    def __init__(self, reader: PieceReader) -> None:
        self._reader = reader
        self.step = reader.facts.step
        self.has_ema = reader.facts.ema
        self.held_out = reader.facts.held_out

    @property
    def better(self) -> Literal["trained", "averaged"]:
        """Which weights to use, `trained` or `averaged`: those with the lower loss on held-out samples."""
        return better(self.held_out) if self.has_ema else TRAINED

    def better_weights(self) -> Mapping[str, Tensor]:
        """Full tensors by parameter name of the weights that `better` names."""
        return self.weights(ema=self.better == AVERAGED)

    def weights(self, ema: bool = False) -> Mapping[str, Tensor]:
        """Full tensors by parameter name; `ema` gives the averages, and parameters that do not train as they are."""
        if ema and not self.has_ema:
            raise TrainingError(
                f"the checkpoint of step {self.step} holds no averaged weights: the run's `ema` was null"
            )
        return Weights(self._reader, ema)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._reader.close()


def open_checkpoint(run: str, step: int | None = None) -> OpenCheckpoint:
    """The newest sound checkpoint of a run, or that of a step, every byte of it compared with its commit.

    Raises TrainingError where there is none, or where the one of `step` is damaged.
    """
    checkpoints = Checkpoints.of(run)
    steps = checkpoints.steps()
    if not steps:
        raise TrainingError(f"{run} has no committed checkpoint: train there first")
    if step is None:
        sound = checkpoints.newest_sound(
            lambda damaged: logger.warning("step %d is damaged: %s", damaged.step, "; ".join(damaged.problems))
        )
        if sound is None:
            raise TrainingError(f"none of the checkpoints of {run} is sound: restore one from a copy, or train again")
        return OpenCheckpoint(PieceReader(checkpoints, sound))
    if step not in steps:
        raise TrainingError(f"{run} has no checkpoint of step {step}; it has {', '.join(map(str, steps))}")
    problems = checkpoints.damage(step)
    if problems:
        raise TrainingError(
            f"the checkpoint of step {step} is damaged: {'; '.join(problems[:4])}. Run the same command again: it goes "
            "on from the one before, or restore it from a copy"
        )
    return OpenCheckpoint(PieceReader(checkpoints, step))
