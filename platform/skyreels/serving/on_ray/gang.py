"""Several processes, on a device each, that do every stage together: a replica, and followers that it starts and owns.

All of them hold the servable and are given the same work; what they exchange in it is the servable's affair. They lie
in the replica's placement group, on one node. One that fails would leave the others waiting inside a step, so it ends
them all: the replica's process ends, its followers with it, and Serve starts another one.
"""

import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from skyreels.serving.config import Pool
from skyreels.serving.servable import Build, Cancelled, Servable, Work

logger = logging.getLogger(__name__)

_SETTLE_S = 20.0
"""How long one process may go on after another has come out of a stage: it writes what was made."""
_LOOK_S = 0.2


class Follower:
    """A process beside a replica."""

    def __init__(self, build: Build, stages: Sequence[str]) -> None:
        self._servable = build(stages)
        self._stages = stages

    def load(self) -> None:
        """As `Servable.load`."""
        self._servable.load(self._stages)

    def join(self, folder: str, number: int, count: int) -> None:
        """As `Servable.join`."""
        self._servable.join(Path(folder), number, count)

    def run(self, stage: str, jobs: Sequence[Mapping[str, bytes]]) -> None:
        """Its part of a stage of `jobs`, by their files. What it makes is the replica's to keep."""
        with TemporaryDirectory(prefix="skyreels-follower-") as scratch:
            works = [_unpacked(stage, files, Path(scratch) / str(number)) for number, files in enumerate(jobs, start=1)]
            try:
                if len(works) == 1:
                    self._servable.run(works[0])
                else:
                    self._servable.run_together(works)
            except Cancelled:
                return  # the replica's is the one that is told

    def stay(self) -> None:
        """Never returns: that a call of it has ended says that the process has."""
        threading.Event().wait()


@dataclass
class Gang:
    """The replica's side, a `Runner`. Where it is `broken`, its processes are at different places: the replica has to
    end."""

    servable: Servable
    followers: Sequence[Any]
    broken: bool = False
    _stays: Sequence[Any] = field(default_factory=tuple)

    @classmethod
    def start(cls, build: Build, pool: Pool, servable: Servable) -> "Gang":
        """Bring up the followers of a replica, load all, and wait until they have met.

        Raises what the first that fails says: who waits for one that will not come waits for long.
        """
        group = get_current_placement_group()
        followers = [
            ray.remote(Follower)
            .options(
                num_cpus=pool.num_cpus,
                num_gpus=pool.num_gpus,
                resources=dict(pool.resources),
                max_concurrency=2,  # one call is `stay`
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, number),
            )
            .remote(build, pool.stages)
            for number in range(1, pool.ranks)
        ]
        loaded = [follower.load.remote() for follower in followers]
        servable.load(pool.stages)
        ray.get(loaded)
        with TemporaryDirectory(prefix="skyreels-gang-") as folder:
            joined = [
                follower.join.remote(folder, number, pool.ranks) for number, follower in enumerate(followers, start=1)
            ]
            servable.join(Path(folder), 0, pool.ranks)
            ray.get(joined)
        return cls(servable, followers, _stays=[follower.stay.remote() for follower in followers])

    def run(self, work: Work) -> Mapping[str, Any]:
        """As `Servable.run`, of all processes together."""
        with self._followed([work]):
            return self.servable.run(work)

    def run_together(self, works: Sequence[Work]) -> Sequence[Mapping[str, Any] | None]:
        """As `Servable.run_together`, of all processes together."""
        with self._followed(works):
            return self.servable.run_together(works)

    def check(self) -> None:
        """Raises RuntimeError where a follower has ended."""
        ended, _ = ray.wait(list(self._stays), timeout=0)
        if ended:
            raise RuntimeError(f"{len(ended)} of {len(self.followers)} followers have ended")

    @contextmanager
    def _followed(self, works: Sequence[Work]) -> Iterator[None]:
        """The followers do the same as the block."""
        if self.broken:
            raise RuntimeError("a process of this replica has failed: another replica has to do this")
        files = ray.put([{name: path.read_bytes() for name, path in work.files.items()} for work in works])
        calls = [follower.run.remote(works[0].stage, files) for follower in self.followers]
        over = threading.Event()
        watching = threading.Thread(target=self._watch, args=(calls, over), daemon=True)
        watching.start()
        try:
            yield
        finally:
            over.set()
            watching.join()

    def _watch(self, calls: Sequence[Any], over: threading.Event) -> None:
        """Look after the followers until the replica is `over` with the stage, and then until they are."""
        pending = list(calls)
        while pending and not over.is_set():
            ready, pending = ray.wait(pending, timeout=_LOOK_S)
            if any(map(_failed, ready)):
                self.broken = True
                if not over.wait(_SETTLE_S):
                    logger.error("a follower failed, and this replica waits for it inside a step: it ends as well")
                    os._exit(1)
        _, late = ray.wait(list(calls), num_returns=len(calls), timeout=_SETTLE_S)
        self.broken = self.broken or bool(late)


def _failed(call: Any) -> bool:
    """Whether a follower did not come to the end of its part, which is logged."""
    try:
        ray.get(call)
    except RayError as error:
        logger.error("a follower failed: %s", error)
        return True
    return False


def _unpacked(stage: str, files: Mapping[str, bytes], folder: Path) -> Work:
    given, made = folder / "given", folder / "made"
    given.mkdir(parents=True)
    made.mkdir()
    for name, content in files.items():
        (given / name).write_bytes(content)
    return Work(stage, {name: given / name for name in files}, made, step=lambda _: None)
