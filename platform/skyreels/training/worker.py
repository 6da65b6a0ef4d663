"""One rank of a run: everything between `Trainable` and Ray."""

import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist

from skyreels.storage import Storage
from skyreels.training.checkpoints import CheckpointFacts, Checkpoints
from skyreels.training.config import EngineConfig
from skyreels.training.device import device_name, memory_bytes, peak_flops
from skyreels.training.errors import TrainingError
from skyreels.training.events import Event, HeldOut, SamplesUnreadable, SamplesWritten, Started, StepDone, StepSkipped
from skyreels.training.guard import Guard, UnreadableCount
from skyreels.training.held_out import HeldOutLosses
from skyreels.training.one_device.captured import CapturedSteps
from skyreels.training.one_device.whole import WholeModule
from skyreels.training.prefetch import Ahead, batches_ahead
from skyreels.training.ranks import Ranks
from skyreels.training.resume import start
from skyreels.training.samples import write_samples
from skyreels.training.schedule import learning_rate
from skyreels.training.snapshot import CheckpointWriter, host_copy
from skyreels.training.stop import stop_requested
from skyreels.training.tally import Tally, Totals
from skyreels.training.trainable import Slot, StepLoss, Trainable
from skyreels.training.zero import Settings, start_deepspeed


class Driver(Protocol):
    """Who is told what happens, wherever that is."""

    def post(self, event: Event) -> None: ...

    def flush(self) -> None:
        """Wait until all that was posted has arrived."""

    def fail(self, message: str) -> None:
        """Note an error that another attempt would meet again."""

    def failure(self) -> str | None: ...

    def follow(self) -> None:
        """Take the driver's request to stop for one of this process."""


@dataclass(frozen=True)
class Job:
    """What the driver hands to every worker. `settings` are DeepSpeed's; None: the module stays whole."""

    make: Callable[[], Trainable]
    config: EngineConfig
    settings: Settings | None
    run: str
    board: Driver


def train_rank(job: Job, device: torch.device) -> None:
    """All that one rank does in one attempt, in the process group that is there."""
    if job.board.failure():
        return  # an earlier attempt met an error that this one would meet again
    try:
        _Worker(job, device).train()
    except TrainingError as error:  # raised by all ranks alike, so all end here
        job.board.fail(str(error))
    except Exception as error:
        if not _may_pass(error):
            job.board.fail("".join(traceback.format_exception(error)))
        raise


def _may_pass(error: Exception) -> bool:
    """Whether another attempt may succeed: a lost peer, a device fault, storage that could not be reached."""
    return isinstance(error, RuntimeError | OSError) and not isinstance(error, torch.OutOfMemoryError)


class _Worker:
    def __init__(self, job: Job, device: torch.device) -> None:
        if job.settings:
            start_deepspeed()
        self.config, self.board = job.config, job.board
        self.run = Storage(job.run)
        self.device = device
        self.trainable = job.make()
        self.ranks = Ranks.of(dist.get_rank(), dist.get_world_size(), self.trainable.slots, job.config)
        self.checkpoints = Checkpoints.of(job.run)
        self.writer = CheckpointWriter(self.checkpoints, job.config.checkpoint.keep, self.post)
        self.unreadable = UnreadableCount(job.config.guard)
        accumulation = self.ranks.accumulation
        state = start(self.trainable, job.config, job.settings, accumulation, self.checkpoints, self.post, device)
        self.sharded, self.ema, self.start = state.sharded, state.ema, state.step
        self.held_out = dict(state.held_out)
        self.writer.last = state.step or None
        self.captured = self._captured()
        self.guard = Guard(job.config.guard, state.norms)
        self.sharded.set_gate(self._may_update)
        if self.ranks.rank == 0:
            job.board.follow()

    def _captured(self) -> CapturedSteps | None:
        if self.config.captured and self.device.type == "cuda" and isinstance(self.sharded, WholeModule):
            return CapturedSteps(self.sharded, self.trainable.loss, self.device)
        return None

    def train(self) -> None:
        """The step loop."""
        config = self.config
        self._announce_start()
        losses = HeldOutLosses(self.trainable, self.sharded, self.device)
        if not self.start:
            self._compare(0, losses.of_start())
        ahead = batches_ahead(self.trainable.batch, self._slots(), config, self.device)
        stopping = False
        for step in range(self.start, config.steps):
            totals = self._step(step, ahead)
            done = step + 1
            stopping = totals.stop
            if done == config.steps:
                self._compare(done, losses.of_end(self.ema))
            if done % config.checkpoint.every_steps == 0 or done == config.steps or stopping:
                self._checkpoint(done)
            if config.samples_every_steps and (done % config.samples_every_steps == 0 or done == config.steps):
                files = write_samples(self.trainable, self.sharded, done, self.run, writes=self.ranks.rank == 0)
                self.post(SamplesWritten(done, files))
            if stopping:
                break
        ahead.close()
        self.writer.wait()
        self._raise_write_error()
        self.sharded.close()
        self.flush()

    def _step(self, step: int, ahead: Ahead[Any]) -> Totals:
        """Forward and backward over this rank's slots; the last micro-step updates the weights, or nothing does."""
        begin = time.perf_counter()
        self.tally = tally = Tally(self.device)
        rate = learning_rate(step, self.config)
        for _, share in self.ranks.step_slots():
            batch, waited = ahead.take()
            tally.waited_s += waited
            step_loss = self._learn(batch, share)
            tally.add(batch, step_loss, counts=share > 0)
            self.sharded.step(rate)
        if self.ema and self.reason is None:
            self.ema.update(self.sharded.updates)
        self._report(step, rate, time.perf_counter() - begin)
        return self.totals

    def _learn(self, batch: Any, share: float) -> StepLoss:
        """Forward and backward of a micro-step."""
        if self.captured is not None:
            return self.captured(batch)
        step_loss = self._loss(batch.to(self.device))
        self.sharded.backward(step_loss.loss * share)
        return step_loss

    def _loss(self, batch: Any) -> StepLoss:
        found: list[StepLoss] = []

        def forward(module: torch.nn.Module) -> torch.Tensor:
            found.append(self.trainable.loss(module, batch))
            return found[0].loss

        self.sharded.run(forward)
        return found[0]

    def _may_update(self, norm: float) -> bool:
        """Called once per step between backward and update, on all ranks."""
        self.norm = norm
        self.totals = self.tally.reduce(stop=stop_requested(), failed=self.writer.error is not None)
        self.reason = self.guard.judge(self.totals.finite, norm)
        return self.reason is None

    def _report(self, step: int, rate: float, seconds: float) -> None:
        """Post what happened; raise where it was too much. All ranks come to the same result."""
        totals, shared = self.totals, self.ranks.sequence_parallel
        self.unreadable.add(totals.samples // shared, totals.unreadable // shared)
        if totals.unreadable:
            reasons = self._gathered(self.tally.unreadable)
            self.post(SamplesUnreadable(step, reasons, self.unreadable.unreadable))
            self.unreadable.check(step, reasons)
        if totals.failed:
            self.writer.wait()
            self._raise_write_error()
        if self.reason is not None:
            keys = self._gathered(self.tally.keys)
            self.post(StepSkipped(step, self.reason, keys))
            self.guard.check(step, self.reason, keys)
        elif self.ranks.rank == 0:
            self.post(StepDone(step, self._metrics(rate, seconds)))

    def _metrics(self, rate: float, seconds: float) -> dict[str, float]:
        totals, shared = self.totals, self.ranks.sequence_parallel
        metrics = {"loss": totals.loss, **totals.sums, "lr": rate, "grad_norm": self.norm}
        metrics |= {
            "step_seconds": seconds,
            "tokens_per_second": totals.tokens / shared / seconds,
            "data_wait": totals.waited_s / self.ranks.world / seconds,
            "memory_bytes": memory_bytes(self.device),
        }
        peak = peak_flops(device_name(self.device))
        if peak is not None:  # a backward pass costs two forward passes; recomputed activations are not counted
            metrics["mfu"] = 3 * totals.flops / shared / (seconds * peak * self.ranks.world)
        return metrics

    def _checkpoint(self, done: int) -> None:
        if done == self.writer.last:
            return
        facts = CheckpointFacts(
            step=done,
            world=self.ranks.world,
            updates=self.sharded.updates,
            norms=tuple(self.guard.norms),
            shapes={name: tuple(shape) for name, shape in self.sharded.shapes().items()},
            frozen=tuple(self.sharded.frozen()),
            holds_frozen=self.config.checkpoint.frozen,
            ema=self.ema is not None,
            held_out=self.held_out,
        )
        self.writer.wait()
        rank, world = self.ranks.rank, self.ranks.world
        self.writer.write(facts, host_copy(self.sharded, self.ema, rank, world, frozen=facts.holds_frozen))
        if not self.config.checkpoint.background:
            self.writer.wait()

    def _compare(self, done: int, losses: dict[str, float]) -> None:
        self.held_out |= losses
        self.post(HeldOut(done, dict(self.held_out)))

    def _announce_start(self) -> None:
        shapes, frozen = self.sharded.shapes(), self.sharded.frozen()
        averages = sum(average.numel() * 4 for average in self.ema.averages) if self.ema else 0
        self.post(
            Started(
                step=self.start,
                workers=self.ranks.world,
                accumulation=self.ranks.accumulation,
                device=device_name(self.device),
                parameters=sum(shape.numel() for shape in shapes.values()),
                trainable_parameters=sum(shape.numel() for name, shape in shapes.items() if name not in frozen),
                state_bytes=self.sharded.state_bytes() + averages,
            )
        )

    def _slots(self) -> Iterator[Slot]:
        for step in range(self.start, self.config.steps):
            for index, _ in self.ranks.step_slots():
                yield Slot(step, index)

    def _gathered(self, words: list[str]) -> tuple[str, ...]:
        """What each rank has, all together, without repetition."""
        lists: list[Any] = [None] * self.ranks.world
        dist.all_gather_object(lists, words)
        return tuple(dict.fromkeys(word for found in lists for word in found))

    def _raise_write_error(self) -> None:
        if self.writer.error is not None:
            raise TrainingError(self.writer.error)

    def post(self, event: Event) -> None:
        """Send to the driver, from the first rank."""
        if self.ranks.rank == 0:
            self.board.post(event)

    def flush(self) -> None:
        """Wait until the driver has what was posted."""
        self.board.flush()
