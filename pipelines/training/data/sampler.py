"""Which samples a step sees: a function of the seed and the step alone.

Every rank asks the same question and gets the same answer, so all ranks draw the same task and bucket, a run that
resumes goes on where it was, and the number of ranks changes nothing. Nothing is stored but the step.

Tasks that may use the same samples share a `Pool`. An epoch of a pool goes once through all of its samples, bucket by
bucket in proportion to the batches that each bucket makes, in an order that is shuffled anew per epoch.
"""

import copy
import hashlib
import logging
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from pipelines.training.data.draws import permuted
from pipelines.training.data.epochs import shares_of, steps_in_all, steps_of_epoch
from pipelines.training.data.selection import E, Places, selectable

logger = logging.getLogger(__name__)


class SamplerError(ValueError):
    """A mix that the data cannot give: which task, what it needs, and what to do."""


@dataclass(frozen=True)
class Draw(Generic[E]):
    """The global batch of a step: equally many samples of one bucket in every slot; or one slot of it. `epoch` is of
    the task's pool."""

    step: int
    task: str
    bucket: str
    epoch: int
    slots: tuple[tuple[E, ...], ...]


@dataclass(frozen=True)
class BucketPart(Generic[E]):
    """What of a bucket is usable: `chosen` are places in `entries`. A global batch takes `slots` times `batch`."""

    bucket: str
    entries: Sequence[E]
    chosen: Places
    slots: int
    batch: int

    @property
    def batches(self) -> int:
        """Global batches that hold every sample once; the last is filled up from the front of the order."""
        return math.ceil(len(self.chosen) / (self.slots * self.batch))

    def take(self, number: int, slot: int, *seed: object) -> tuple[E, ...]:
        """The samples of a slot of the global batch `number`, in the order that `seed` names."""
        start, count = (number * self.slots + slot) * self.batch, len(self.chosen)
        places = np.arange(start, start + self.batch, dtype=np.uint64) % np.uint64(count)
        return tuple(self.entry(int(place)) for place in permuted(places, count, *seed, self.bucket))

    def entry(self, place: int) -> E:
        """The usable sample at that place."""
        return self.entries[int(self.chosen[place])]


@dataclass(frozen=True)
class Pool(Generic[E]):
    """Samples that these tasks use alike."""

    tasks: tuple[str, ...]
    parts: tuple[BucketPart[E], ...]

    @property
    def name(self) -> str:
        """Of its tasks; part of the seed of its orders."""
        return "+".join(self.tasks)

    @property
    def batches(self) -> int:
        """Global batches of an epoch."""
        return sum(part.batches for part in self.parts)

    @property
    def samples(self) -> int:
        """Samples of an epoch."""
        return sum(len(part.chosen) for part in self.parts)

    def find(self, number: int) -> tuple[BucketPart[E], int]:
        """The part, and which of its batches, of batch `number` of an epoch in the order of parts."""
        for part in self.parts:
            if number < part.batches:
                return part, number
            number -= part.batches
        raise IndexError(f"pool {self.name} has {self.batches} batches")


class Sampler(Generic[E]):
    """Draws global batches of `slots` micro-batches from `buckets`, samples of like shape by name.

    `mix` holds the tasks' shares. `usable(task, entry)` tells what a task can use, `tokens(task, bucket)` how long a
    sample is: a slot holds as many as fit `tokens_per_slot`, at least one. Tasks of `optional` that find nothing leave
    their share to their `heirs`, or to the rest, and stand in `left_out`; any other such task is a SamplerError, in
    which `needs` puts into words what was looked for. Samples whose keys are `held` are never drawn.

    Building asks buckets for the places of what is usable (`data.selection`). A draw costs the same for any number of
    entries.
    """

    def __init__(
        self,
        buckets: Mapping[str, Sequence[E]],
        mix: Mapping[str, float],
        *,
        usable: Callable[[str, Any], bool],
        tokens: Callable[[str, str], int],
        slots: int,
        tokens_per_slot: int,
        seed: int = 0,
        optional: Sequence[str] = (),
        needs: Mapping[str, str] | None = None,
        heirs: Mapping[str, Sequence[str]] | None = None,
        held: Collection[str] = frozenset(),
    ) -> None:
        self.slots, self.seed = slots, seed
        found = {
            task: tuple(
                BucketPart(
                    bucket, entries, chosen, slots, _batch(len(chosen), tokens(task, bucket), slots, tokens_per_slot)
                )
                for bucket, entries in sorted(buckets.items())
                if len(chosen := selectable(entries).usable(partial(usable, task), held))
            )
            for task, share in mix.items()
            if share > 0
        }
        self.left_out = tuple(task for task, parts in found.items() if not parts)
        _refuse(self.left_out, optional if len(self.left_out) < len(found) else (), buckets, needs or {})
        self.pools = _pools({task: parts for task, parts in found.items() if parts})
        self._pool_of = {task: pool for pool in self.pools for task in pool.tasks}
        self._shares = handed_on({task: mix[task] for task in found}, self.left_out, heirs or {})
        self._mix = Mix(self._shares, seed)

    @property
    def mix(self) -> dict[str, int]:
        """How often each task comes in 1,000 steps."""
        return dict(self._mix.counts)

    def by_epochs(self) -> "Sampler[E]":
        """The same sampler with every kind of samples in as many steps as it has batches (see `epochs`)."""
        even = copy.copy(self)
        even._mix = Mix(shares_of(self.epoch), self.seed)
        return even

    @property
    def epoch(self) -> dict[str, float]:
        """Steps by task that go once through the samples of every kind; those of several tasks count once."""
        usable: dict[str, int] = {}
        for part in (part for pool in self.pools for part in pool.parts):
            usable[part.bucket] = max(usable.get(part.bucket, 0), len(part.chosen))
        samples: Counter[str] = Counter()
        for bucket, count in usable.items():
            samples[_kind(bucket)] += count
        kinds = {task: [_kind(part.bucket) for part in pool.parts] for task, pool in self._pool_of.items()}
        taken = {task: pool.samples / pool.batches for task, pool in self._pool_of.items()}
        return steps_of_epoch(self._shares, kinds, samples, taken)

    @property
    def steps_per_epoch(self) -> int:
        """Steps that take as many samples as there are."""
        return steps_in_all(self.epoch, 1)

    def parts(self, task: str) -> tuple[BucketPart[E], ...]:
        """What a task of the mix draws from."""
        return self._pool_of[task].parts

    def task(self, step: int) -> str:
        """The task of a step, counted from 0; the same for all slots."""
        return self._mix.task(step)

    def draw(self, step: int, slot: int | None = None) -> Draw[E]:
        """The global batch of a step, or one slot of it."""
        task = self._mix.task(step)
        pool = self._pool_of[task]
        epoch, place = divmod(self._mix.earlier(step, pool.tasks), pool.batches)
        seed = (self.seed, pool.name, epoch)
        part, number = pool.find(int(permuted(np.array([place], np.uint64), pool.batches, *seed)[0]))
        slots = range(self.slots) if slot is None else (slot,)
        return Draw(step, task, part.bucket, epoch, tuple(part.take(number, one, *seed) for one in slots))

    def replacement(self, draw: Draw[E], entry: E, attempt: int) -> E:
        """Another sample of the draw's task and bucket, for one that cannot be read; `attempt` counts from 1.

        Attempts go through all the others before one comes again. Raises SamplerError where there is no other.
        """
        part = next(part for part in self._pool_of[draw.task].parts if part.bucket == draw.bucket)
        count = len(part.chosen)
        if count == 1:
            raise SamplerError(
                f"{entry.key} is the only sample of {draw.bucket} for {draw.task}: nothing can replace it"
            )
        digest = hashlib.blake2b(repr((self.seed, draw.step, entry.key)).encode(), digest_size=8).digest()
        start, skipped = int.from_bytes(digest, "little"), (attempt - 1) % (count - 1)
        walk = (part.entry((start + offset) % count) for offset in range(count))
        return next(islice((other for other in walk if other.key != entry.key), skipped, None))


def handed_on(mix: Mapping[str, float], gone: Collection[str], heirs: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Shares of the tasks that are left. Those of `gone` go to their heirs among them, in proportion, or to all."""
    left = {task: share for task, share in mix.items() if task not in gone}
    found = dict(left)
    for task in gone:
        takers = {heir: left[heir] for heir in heirs.get(task, ()) if heir in left}
        for heir, share in takers.items():
            found[heir] += mix[task] * share / sum(takers.values())
    return found


def _kind(bucket: str) -> str:
    return bucket.partition("-")[0]


def _batch(samples: int, tokens: int, slots: int, tokens_per_slot: int) -> int:
    """Samples in a slot: as many as fit, no more than its part of those there are, at least one."""
    return max(1, min(tokens_per_slot // max(tokens, 1), math.ceil(samples / slots)))


def _pools(parts: Mapping[str, tuple[BucketPart[E], ...]]) -> tuple[Pool[E], ...]:
    """Tasks with equal parts together."""
    groups: dict[object, list[str]] = {}
    for task, found in parts.items():
        alike = tuple((part.bucket, part.batch, _identity(part.chosen)) for part in found)
        groups.setdefault(alike, []).append(task)
    return tuple(Pool(tuple(sorted(tasks)), parts[tasks[0]]) for tasks in groups.values())


def _identity(chosen: Places) -> object:
    """Equal for equal places of one bucket."""
    if isinstance(chosen, np.ndarray):
        return hashlib.blake2b(chosen.tobytes()).digest()
    return getattr(chosen, "identity", chosen)


def _refuse(
    empty: Sequence[str], optional: Sequence[str], buckets: Mapping[str, Sequence[E]], needs: Mapping[str, str]
) -> None:
    """Raise for tasks that must have samples and have none; tell of those that need not."""
    missing = [task for task in empty if task not in optional]
    if missing:
        held = ", ".join(f"{len(entries)} in {bucket}" for bucket, entries in sorted(buckets.items())) or "no samples"
        wants = "; ".join(f"{task} needs {needs.get(task, 'samples of its kind')}" for task in missing)
        raise SamplerError(
            f"no sample for {', '.join(missing)}: {wants}. The latents hold {held}. Give data that has them, set the "
            f"share to 0 (tasks.{missing[0]}=0), or let the task be left out (optional=[{', '.join(missing)}])"
        )
    for task in empty:
        logger.warning("no sample for %s (%s): its share goes to other tasks", task, needs.get(task, "none usable"))


SHARES_PER = 1000  # shares are kept to a thousandth


class Mix:
    """Steps come in blocks that hold each task exactly as often as its share says, shuffled anew per block.

    `shares` are relative to their sum; `counts` are those of 1,000 steps. A block is as short as the shares allow: of
    0.8 and four times 0.05 it is 20 steps. Raises ValueError for a share below a thousandth.
    """

    def __init__(self, shares: Mapping[str, float], seed: int) -> None:
        self.counts = _thousandths(shares)
        smallest = math.gcd(*self.counts.values())
        self._tasks = tuple(self.counts)
        self._per_block = {task: count // smallest for task, count in self.counts.items()}
        self._length = SHARES_PER // smallest
        self._seed = seed
        self._block = lru_cache(maxsize=4)(self._shuffled)

    def task(self, step: int) -> str:
        """The task of a step, counted from 0."""
        block, place = divmod(step, self._length)
        return self._tasks[self._block(block)[place]]

    def earlier(self, step: int, tasks: Iterable[str]) -> int:
        """How many steps before `step` are of these tasks."""
        block, place = divmod(step, self._length)
        wanted = [number for number, task in enumerate(self._tasks) if task in set(tasks)]
        in_blocks = block * sum(self._per_block[self._tasks[number]] for number in wanted)
        return in_blocks + int(np.isin(self._block(block)[:place], wanted).sum())

    def _shuffled(self, block: int) -> NDArray[np.int64]:
        """(steps of a block,) numbers of tasks."""
        tasks = np.repeat(np.arange(len(self._tasks)), list(self._per_block.values()))
        return tasks[permuted(np.arange(self._length, dtype=np.uint64), self._length, self._seed, "tasks", block)]


def _thousandths(shares: Mapping[str, float]) -> dict[str, int]:
    """Whole thousandths that sum to 1,000, by largest remainders."""
    total = sum(shares.values())
    exact = {task: share / total * SHARES_PER for task, share in shares.items()}
    small = [task for task, share in exact.items() if share < 1 - 1e-6]
    if small:
        raise ValueError(f"the share of {', '.join(small)} is below a thousandth: give it more, or 0")
    counts = {task: math.floor(share + 1e-6) for task, share in exact.items()}
    by_remainder = sorted(exact, key=lambda task: (counts[task] - exact[task], task))
    for task in by_remainder[: SHARES_PER - sum(counts.values())]:
        counts[task] += 1
    return counts
