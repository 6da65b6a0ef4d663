"""The one work layer: parts go to workers on the cluster, each is done and committed there, and told about as it ends.

    parts -> Ray Data -> a worker does and commits each -> outcomes

A part is deterministic and its commit comes last (`skyreels.commits`), so any part may be done twice and none can be
done by half. A store that fails costs the part, never the run: the others go on, and the next run does it again.
"""

import errno
import json
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from skyreels.storage import StorageError

logger = logging.getLogger(__name__)

_MAX_BLOCKS = 10_000  # tasks of one Ray Data stage


@dataclass(frozen=True)
class Part:
    """A unit of work: the id that its commit has, and all that a worker must know to do it, as JSON."""

    part_id: str
    work: str


class Worker(Protocol):
    """Does a part and commits it. Returns what it came to, as JSON has it. An OSError is the store's fault."""

    def __call__(self, part: Part) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Resources:
    """What a worker takes. `workers`: how many are kept, for those slow to make; None: plain tasks, as many as fit.

    `memory_bytes` is what a node must have free of what others asked for; where no node has it, workers are alone on
    the largest.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    workers: int | None = None
    memory_bytes: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a part came to; `failure` is empty, or why it could not be written."""

    part_id: str
    facts: Mapping[str, Any]
    failure: str = ""
    detail: str = ""


class Incomplete(StorageError):
    """Some parts could not be written; what is committed stays, and the same command goes on from there."""


def run_parts(
    parts: Sequence[Part], make_worker: Callable[[], Worker], resources: Resources | None = None
) -> Iterator[Outcome]:
    """Every part on the cluster that this process is connected to; outcomes come in any order.

    `make_worker` is called once in each of Ray's processes that gets a part.
    """
    if not parts:
        return
    import ray  # here: work in this process needs none

    resources = resources or Resources()
    rows = [asdict(part) for part in parts]
    dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MAX_BLOCKS))
    memory = _memory_of_a_node(resources.memory_bytes) if resources.memory_bytes else None
    takes = {"num_cpus": resources.cpus, "num_gpus": resources.gpus or None, "memory": memory}
    if resources.workers is None:
        done = dataset.map(_do_in_task, fn_kwargs={"make_worker": make_worker, "run": uuid.uuid4().hex}, **takes)
    else:
        pool = ray.data.ActorPoolStrategy(size=min(resources.workers, len(rows)))
        done = dataset.map(_Actor, fn_constructor_kwargs={"make_worker": make_worker}, compute=pool, **takes)
    for row in done.iter_rows():
        yield Outcome(row["part_id"], json.loads(row["facts"]), row["failure"], row["detail"])


def run_in_process(parts: Iterable[Part], make_worker: Callable[[], Worker]) -> Iterator[Outcome]:
    """The same in a plain loop: for little work, and the baseline that Ray's overhead is measured against."""
    worker = make_worker()
    for part in parts:
        yield attempt(worker, part)


def attempt(worker: Worker, part: Part) -> Outcome:
    """One part, here and now. What no store is to blame for is raised."""
    try:
        return Outcome(part.part_id, worker(part))
    except OSError as error:  # no sample is to blame, and the next run does the part again
        reason = "disk_full" if error.errno == errno.ENOSPC else "store_failed"
        return Outcome(part.part_id, {}, reason, str(error))


def committed(outcomes: Iterable[Outcome], where: str) -> Iterator[Outcome]:
    """The outcomes of parts that were written; at the end raises Incomplete that names all others."""
    count = 0
    failed = []
    for outcome in outcomes:
        count += 1
        if outcome.failure:
            failed.append(outcome)
        else:
            yield outcome
    if failed:
        reasons = "\n".join(f"  part {outcome.part_id}: {outcome.failure}: {outcome.detail}" for outcome in failed)
        raise Incomplete(
            f"{len(failed)} of {count} parts could not be written to {where}:\n{reasons}\n"
            "The others are committed. Make room or repair the store, then run the same command again."
        )


def _memory_of_a_node(wanted: int) -> int:
    """What a worker asks for: Ray would wait for ever for more than the largest node has."""
    import ray

    largest = int(max(node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]))
    if wanted > largest:
        mib = 1 << 20
        logger.warning(
            "a task may want %d MiB of memory, and no node has more than %d: they run one at a time on a node; if one "
            "is ended for want of memory, give the nodes more",
            wanted // mib, largest // mib,
        )  # fmt: skip
    return min(wanted, largest)


class _Actor:
    """Keeps a worker for all the parts that come to it."""

    def __init__(self, make_worker: Callable[[], Worker]) -> None:
        self._worker = make_worker()

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        outcome = attempt(self._worker, Part(**row))
        return asdict(outcome) | {"facts": json.dumps(outcome.facts)}


_kept: dict[str, _Actor] = {}


def _do_in_task(row: dict[str, str], make_worker: Callable[[], Worker], run: str) -> dict[str, str]:
    """Tasks share a process one after another, and with it the worker that the first of them made."""
    if run not in _kept:
        _kept.clear()  # what another run left in this process
        _kept[run] = _Actor(make_worker)
    return _kept[run](row)
