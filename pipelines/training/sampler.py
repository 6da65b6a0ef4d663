"""Which samples a step sees: a function of the seed and the step alone.

Every rank asks the same question and gets the same answer, so all ranks draw the same task and bucket, a run that
resumes goes on where it was, and the number of ranks changes nothing. Nothing is stored but the step.

Tasks come in blocks that hold each task exactly as often as its share says, shuffled anew per block. Tasks that may
use the same samples share a `Pool`, whose epochs go once through all of them, bucket by bucket in proportion to the
batches that each bucket makes, in an order that is shuffled anew per epoch.
"""

import hashlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, Protocol, TypeVar

import numpy as np

from pipelines.training.permutation import permuted

logger = logging.getLogger(__name__)

SHARES_PER = 1000  # shares are kept to a thousandth


class HasKey(Protocol):
    """What the sampler must know of a sample."""

    @property
    def key(self) -> str: ...


E = TypeVar("E", bound=HasKey)


class SamplerError(ValueError):
    """A mix that the data cannot give: which task, what it needs, and what to do."""


@dataclass(frozen=True)
class Draw(Generic[E]):
    """The global batch of a step: equally many samples of one bucket in every slot. `epoch` counts from 0."""

    step: int
    task: str
    bucket: str
    epoch: int
    slots: tuple[tuple[E, ...], ...]


@dataclass(frozen=True)
class Shelf(Generic[E]):
    """What of a bucket is usable: `chosen` are places in `entries`; a slot takes `batch` of them."""

    bucket: str
    entries: Sequence[E]
    chosen: Sequence[int]
    batch: int

    def draws(self, slots: int) -> int:
        """Global batches that hold every sample once; the last is filled up from the front of the order."""
        return math.ceil(len(self.chosen) / (slots * self.batch))


@dataclass(frozen=True)
class Pool(Generic[E]):
    """Samples that some tasks use alike. `name` is of those tasks, and part of the seed of its orders."""

    name: str
    tasks: tuple[str, ...]
    shelves: tuple[Shelf[E], ...]
    ends: tuple[int, ...]
    """Global batches of an epoch up to and with each shelf."""

    @property
    def samples(self) -> int:
        return sum(len(shelf.chosen) for shelf in self.shelves)

    @property
    def draws_per_epoch(self) -> int:
        return self.ends[-1]


class Sampler(Generic[E]):
    """Draws global batches of `slots` micro-batches from `buckets`, samples of like shape by name.

    `mix` holds the tasks' shares, relative to their sum. `usable(task, entry)` tells what a task can use, `tokens(task,
    bucket)` how long a sample is: a slot holds as many as fit `tokens_per_slot`, at least one. Tasks of `optional` that
    find nothing leave their share to the rest and stand in `left_out`; any other such task is a SamplerError, in which
    `needs` puts into words what was looked for.

    Building reads every entry once per task and keeps 4 bytes for each that is usable, unless a whole bucket is; a
    draw costs the same for any number of entries.
    """

    def __init__(
        self,
        buckets: Mapping[str, Sequence[E]],
        mix: Mapping[str, float],
        *,
        usable: Callable[[str, E], bool],
        tokens: Callable[[str, str], int],
        slots: int,
        tokens_per_slot: int,
        seed: int = 0,
        optional: Sequence[str] = (),
        needs: Mapping[str, str] | None = None,
    ) -> None:
        self.slots, self.seed = slots, seed
        self._tokens_per_slot, self._tokens, self._usable = tokens_per_slot, tokens, usable
        shelves = {task: self._shelves(task, buckets) for task, share in mix.items() if share > 0}
        self.left_out = tuple(task for task, found in shelves.items() if not found)
        _refuse(self.left_out, optional, buckets, needs or {})
        self.mix = _thousandths({task: mix[task] for task, found in shelves.items() if found})
        self.pools = _pools({task: shelves[task] for task in self.mix}, slots)
        self._pool_of = {task: place for place, pool in enumerate(self.pools) for task in pool.tasks}
        self._tasks = tuple(self.mix)
        smallest = math.gcd(*self.mix.values())
        self._counts = tuple(count // smallest for count in self.mix.values())
        self._block_of = lru_cache(maxsize=4)(self._block)

    @property
    def steps_per_epoch(self) -> int:
        """Steps that take as many samples as there are: each pool's epoch counts once, a sample in two pools once.

        A task with a larger share than its samples have in the data goes through them more often than others.
        """
        best: dict[str, int] = {}
        for pool in self.pools:
            for shelf in pool.shelves:
                best[shelf.bucket] = max(best.get(shelf.bucket, 0), shelf.draws(self.slots))
        return sum(best.values())

    def task(self, step: int) -> str:
        """The task of a step, the same for all slots."""
        order, _ = self._block_of(step // sum(self._counts))
        return self._tasks[order[step % sum(self._counts)]]

    def draw(self, step: int) -> Draw[E]:
        """The global batch of `step`, counted from 0."""
        length = sum(self._counts)
        block, place = divmod(step, length)
        order, earlier = self._block_of(block)
        task = self._tasks[order[place]]
        pool = self.pools[self._pool_of[task]]
        drawn = block * sum(self._counts[self._tasks.index(other)] for other in pool.tasks) + int(earlier[place])
        epoch, position = divmod(drawn, pool.draws_per_epoch)
        shelf, batch = self._place(pool, epoch, position)
        size = self.slots * shelf.batch
        places = (np.arange(batch * size, (batch + 1) * size, dtype=np.uint64)) % np.uint64(len(shelf.chosen))
        order_of = permuted(places, len(shelf.chosen), self.seed, pool.name, shelf.bucket, epoch)
        entries = [shelf.entries[int(shelf.chosen[int(index)])] for index in order_of]
        slots = tuple(tuple(entries[start : start + shelf.batch]) for start in range(0, size, shelf.batch))
        return Draw(step, task, shelf.bucket, epoch, slots)

    def replacement(self, draw: Draw[E], entry: E, attempt: int) -> E:
        """Another sample of the draw's task and bucket, for one that cannot be read; `attempt` counts from 1."""
        pool = self.pools[self._pool_of[draw.task]]
        shelf = next(shelf for shelf in pool.shelves if shelf.bucket == draw.bucket)
        count = len(shelf.chosen)
        digest = hashlib.blake2b(repr((self.seed, draw.step, entry.key)).encode(), digest_size=8).digest()
        start = int.from_bytes(digest, "little")
        walk = (shelf.entries[int(shelf.chosen[(start + offset) % count])] for offset in range(count))
        others = (other for other in walk if other.key != entry.key)
        for _ in range((attempt - 1) % max(count - 1, 1)):
            next(others, None)
        found = next(others, None)
        if found is None:
            raise SamplerError(
                f"{entry.key} is the only sample of {draw.bucket} for {draw.task}: nothing can replace it"
            )
        return found

    def _shelves(self, task: str, buckets: Mapping[str, Sequence[E]]) -> tuple[Shelf[E], ...]:
        found = []
        for bucket in sorted(buckets):
            entries = buckets[bucket]
            chosen = _usable_places(entries, lambda entry: self._usable(task, entry))
            if len(chosen):
                fitting = self._tokens_per_slot // max(self._tokens(task, bucket), 1)
                batch = max(1, min(fitting, math.ceil(len(chosen) / self.slots)))
                found.append(Shelf(bucket, entries, chosen, batch))
        return tuple(found)

    def _block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """The tasks of a block's steps, and how often each step's pool came earlier in the block."""
        tasks = np.repeat(np.arange(len(self._counts)), self._counts)
        length = np.arange(len(tasks), dtype=np.uint64)
        order = tasks[permuted(length, len(tasks), self.seed, "tasks", block)]
        pools = np.array([self._pool_of[task] for task in self._tasks])[order]
        earlier = np.zeros(len(tasks), dtype=np.int64)
        for pool in range(len(self.pools)):
            mine = pools == pool
            earlier[mine] = np.arange(mine.sum())
        return order, earlier

    def _place(self, pool: Pool[E], epoch: int, position: int) -> tuple[Shelf[E], int]:
        """The shelf, and which of its global batches, at a position of an epoch."""
        start = np.array([position], dtype=np.uint64)
        mixed = int(permuted(start, pool.draws_per_epoch, self.seed, pool.name, "buckets", epoch)[0])
        shelf = int(np.searchsorted(pool.ends, mixed, side="right"))
        return pool.shelves[shelf], mixed - (pool.ends[shelf - 1] if shelf else 0)


def _usable_places(entries: Sequence[E], usable: Callable[[E], bool]) -> Sequence[int]:
    places = np.fromiter((place for place, entry in enumerate(entries) if usable(entry)), dtype=np.uint32)
    return range(len(entries)) if len(places) == len(entries) else places  # type: ignore[return-value]


def _pools(shelves: Mapping[str, tuple[Shelf[E], ...]], slots: int) -> tuple[Pool[E], ...]:
    """Tasks with equal shelves, in equal batches, together."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for task, found in shelves.items():
        alike = tuple((shelf.bucket, shelf.batch, _digest(shelf.chosen)) for shelf in found)
        groups.setdefault(alike, []).append(task)
    pools = []
    for tasks in groups.values():
        found = shelves[tasks[0]]
        ends = tuple(int(end) for end in np.cumsum([shelf.draws(slots) for shelf in found]))
        pools.append(Pool("+".join(sorted(tasks)), tuple(tasks), found, ends))
    return tuple(pools)


def _digest(chosen: Sequence[int]) -> object:
    return chosen if isinstance(chosen, range) else hashlib.blake2b(np.asarray(chosen).tobytes()).digest()


def _thousandths(mix: Mapping[str, float]) -> dict[str, int]:
    """Shares as whole thousandths that sum to 1,000, by largest remainders."""
    total = sum(mix.values())
    exact = {task: share / total * SHARES_PER for task, share in mix.items()}
    small = [task for task, share in exact.items() if share < 0.5]
    if small:
        raise SamplerError(f"the share of {', '.join(small)} is below a thousandth: give it more or leave it out")
    counts = {task: max(math.floor(share), 1) for task, share in exact.items()}
    by_remainder = sorted(exact, key=lambda task: (counts[task] - exact[task], task))
    for turn in range(abs(SHARES_PER - sum(counts.values()))):
        counts[by_remainder[turn % len(counts)]] += 1 if sum(counts.values()) < SHARES_PER else -1
    return counts


def _refuse(
    empty: Sequence[str], optional: Sequence[str], buckets: Mapping[str, Sequence[E]], needs: Mapping[str, str]
) -> None:
    """Raise for tasks that must have samples and have none; tell of those that need not."""
    held = ", ".join(f"{len(entries)} in {bucket}" for bucket, entries in sorted(buckets.items())[:6]) or "no samples"
    missing = [task for task in empty if task not in optional]
    if missing:
        wants = "; ".join(f"{task} needs {needs.get(task, 'samples of its kind')}" for task in missing)
        raise SamplerError(
            f"no sample for {', '.join(missing)}: {wants}. The latents hold {held}. Give data that has them, set the "
            f"share to 0 (tasks.{missing[0]}=0), or let the task be left out (optional=[{', '.join(missing)}])"
        )
    for task in empty:
        logger.warning("no sample for %s (%s): its share goes to the other tasks", task, needs.get(task, "none usable"))
