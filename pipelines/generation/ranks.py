"""One clip on several devices: every rank has the whole model, and a share of the video's tokens (decision 0092).

All ranks take the same steps from the same seed; the first one alone decodes, writes and reports. They are processes of
one machine, started here for one command (`run_on_ranks`), or by a service for as long as it runs, which meet (`meet`).
"""

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import set_forkserver_preload
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from model.folder import REFINER, TRANSFORMER
from model.generation.prepared import Prepared
from model.generation.steps import OnStep, Progress
from model.generator import Generator
from model.sampling.sampler import Cancelled
from skyreels.training.ulysses import UlyssesRanks, sequence_ranks

Work = Callable[..., None]
"""Called on every rank with its `UlyssesRanks`, its device and the given arguments; at the top of a module."""
SILENCE = timedelta(minutes=30)
"""A rank waits for the others as long as this: the first one decodes previews, and loads while they are done."""


class RankFailed(ValueError):
    """What one rank said before it ended; the others were ended with it."""


def run_on_ranks(count: int, device: str, work: Work, *arguments: Any) -> None:
    """`work` in `count` processes of this machine, on a GPU each where `device` is cuda. Raises RankFailed."""
    kind = torch.device(device).type
    if kind == "cuda" and torch.cuda.device_count() < count:
        raise ValueError(f"{count} ranks need as many GPUs, and {torch.cuda.device_count()} are here: lower --ranks")
    with TemporaryDirectory(prefix="skyreels-ranks-") as folder:
        try:
            set_forkserver_preload([__name__])  # imported once, and not by each of them
            mp.start_processes(_rank, (count, kind, folder, work, arguments), count, start_method="forkserver")
        except (mp.ProcessExitedException, mp.ProcessRaisedException) as error:
            said = sorted(Path(folder).glob("said-*.txt"))
            if not said:
                raise
            raise RankFailed(said[0].read_text()) from error


def meet(folder: Path, rank: int, count: int, kind: str) -> UlyssesRanks:
    """The ranks that meet through a file in an empty `folder`, once all of them are there; `kind` is cpu or cuda.

    A process meets others once. What they exchange stays on this machine.
    """
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # it would look for this host's name, which may lead nowhere
    store = dist.FileStore(str(folder / "rendezvous"), count)
    backend = "nccl" if kind == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=SILENCE)
    ranks = sequence_ranks(count)
    assert ranks is not None
    return ranks


def share(generator: Generator, ranks: UlyssesRanks) -> None:
    """Spread what the generator's networks see over `ranks`. Raises ValueError where heads do not divide."""
    parts = generator.components.parts
    for name in (TRANSFORMER, REFINER):
        if name in parts:
            parts[name].share_sequences(ranks)


def follow(generator: Generator, prepared: Prepared, ranks: UlyssesRanks) -> None:
    """What a rank beside the first does while that one renders. Raises Cancelled where the first one stops."""
    voted = Voted(ranks)
    base = generator.sample_base(prepared, callback_on_step_end=voted)
    if prepared.refined is not None:
        generator.refine(prepared, base, callback_on_step_end=voted)


class Voted:
    """A callback after every step that stops all ranks where one rank's stops it: alone, it would leave the others
    waiting for its share."""

    def __init__(self, ranks: UlyssesRanks, on_step_end: OnStep | None = None) -> None:
        self.ranks, self.on_step_end = ranks, on_step_end

    def __call__(self, progress: Progress) -> None:
        stopped = None
        try:
            if self.on_step_end is not None:
                self.on_step_end(progress)
        except Cancelled as error:
            stopped = error
        if self.ranks.any(stopped is not None):
            raise stopped or Cancelled(f"another rank stopped after step {progress.step.index + 1}")


def _rank(rank: int, count: int, kind: str, folder: str, work: Work, arguments: tuple[Any, ...]) -> None:
    """One process of `run_on_ranks`."""
    device = f"cuda:{rank}" if kind == "cuda" else kind
    if kind == "cuda":
        torch.cuda.set_device(rank)
    ranks = meet(Path(folder), rank, count, kind)
    try:
        work(ranks, device, *arguments)
    except (ValueError, OSError) as error:
        (Path(folder) / f"said-{rank}.txt").write_text(str(error))
        sys.exit(1)
    dist.destroy_process_group()
