"""Writing a checkpoint while training goes on: a copy on the host, then files and commit in a thread."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from skyreels.commits import CommittedFile, describe
from skyreels.training.checkpoints import CheckpointFacts, Checkpoints, rank_file
from skyreels.training.ema import ShardedEma
from skyreels.training.events import CheckpointWritten
from skyreels.training.one_device.whole import Held
from skyreels.training.partition import bounds


@torch.no_grad()
def host_copy(sharded: Held, ema: ShardedEma | None, rank: int, world: int, *, frozen: bool) -> dict[str, Tensor]:
    """This rank's pieces without their padding, keyed as in a checkpoint file, in memory that training leaves alone."""
    flats = sharded.flat_state() | ({"ema": ema.averages} if ema else {})
    copies = {kind: [flat.detach().to("cpu", copy=True) for flat in groups] for kind, groups in flats.items()}
    shapes = sharded.shapes()
    tensors = {}
    for name, place in sharded.places().items():
        start, stop = bounds(shapes[name].numel(), rank, world)
        for kind, groups in copies.items():
            tensors[f"{kind}/{name}"] = groups[place.group].narrow(0, place.offset, stop - start)
    for name, piece in (sharded.frozen() if frozen else {}).items():
        start, stop = bounds(shapes[name].numel(), rank, world)
        tensors[f"frozen/{name}"] = piece.detach()[: stop - start].to("cpu", copy=True)
    if rank == 0:
        for name, buffer in sharded.buffers().items():
            tensors[f"buffer/{name}"] = buffer.detach().to("cpu", copy=True)
    return {key: tensor for key, tensor in tensors.items() if tensor.numel()}


@dataclass(frozen=True)
class _Written:
    """What a rank reports of its file: the file, or why there is none."""

    file: CommittedFile | None
    error: str = ""


class CheckpointWriter:
    """Writes one checkpoint at a time. All ranks make the same calls; `error` is set on all of them when one fails."""

    def __init__(self, checkpoints: Checkpoints, keep: int, announce: Callable[[CheckpointWritten], None]) -> None:
        self._checkpoints, self._keep, self._announce = checkpoints, keep, announce
        self._rank, self._world = dist.get_rank(), dist.get_world_size()
        self._group: Any = dist.new_group(backend="gloo")  # its own: the training thread uses the others meanwhile
        self._thread: threading.Thread | None = None
        self.error: str | None = None
        self.last: int | None = None

    def write(self, facts: CheckpointFacts, tensors: dict[str, Tensor]) -> None:
        """Start writing; waits for the one before."""
        self.wait()
        self._thread = threading.Thread(target=self._write, args=(facts, tensors), name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, facts: CheckpointFacts, tensors: dict[str, Tensor]) -> None:
        begin = time.perf_counter()
        reports: list[Any] = [None] * self._world
        dist.all_gather_object(reports, self._write_file(facts.step, tensors), group=self._group)
        outcome = [self._commit(facts, reports) if self._rank == 0 else None]
        dist.broadcast_object_list(outcome, group=self._group, src=0)
        self.error = outcome[0]
        if self.error is None:
            self.last = facts.step
        if self.error is None and self._rank == 0:
            size = sum(report.file.bytes for report in reports)
            where = self._checkpoints.location(facts.step)
            self._announce(CheckpointWritten(facts.step, where, size, time.perf_counter() - begin))

    def _write_file(self, step: int, tensors: dict[str, Tensor]) -> _Written:
        name = rank_file(step, self._rank)
        try:
            with self._checkpoints.storage.staged(name) as path:
                save_file(tensors, path)
                return _Written(describe(name, path))
        except Exception as error:  # noqa: BLE001 (whatever it was, the other ranks wait to hear of it)
            return _Written(None, f"{self._checkpoints.storage.location(name)}: {error}")

    def _commit(self, facts: CheckpointFacts, reports: list[_Written]) -> str | None:
        """Commit what all ranks wrote and delete what is past retention; what went wrong, in words."""
        errors = [report.error for report in reports if report.file is None]
        if not errors:
            try:
                self._checkpoints.commit(facts, [report.file for report in reports if report.file])
                self._checkpoints.retain(self._keep)
                return None
            except OSError as error:
                errors = [str(error)]
        last = self._checkpoints.latest()
        kept = f"the checkpoint of step {last} is intact" if last is not None else "there is no earlier checkpoint"
        return (
            f"the checkpoint of step {facts.step} could not be written: {'; '.join(errors[:4])}. Make room or repair "
            f"the storage and run again; {kept}"
        )
