"""The task of every step, from the tasks' shares: a function of the seed and the step."""

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipelines.training.data.permutation import permuted

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
