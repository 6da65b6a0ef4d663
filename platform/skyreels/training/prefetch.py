"""Batches ahead of the step."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from skyreels.training.trainable import Slot

T = TypeVar("T")


class Prefetch(Generic[T]):
    """`read` of each slot in order, up to `ahead` of them before they are asked for, in `threads` threads."""

    def __init__(self, read: Callable[[Slot], T], slots: Iterator[Slot], ahead: int, threads: int) -> None:
        self._read, self._slots = read, slots
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="batch")
        self._waiting: deque[Future[T]] = deque()
        for _ in range(ahead):
            self._submit()

    def take(self) -> tuple[T, float]:
        """The next slot's batch, and the seconds that the caller waited for it. Errors of `read` are raised here."""
        begin = time.perf_counter()
        batch = self._waiting.popleft().result()
        waited = time.perf_counter() - begin
        self._submit()
        return batch, waited

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self) -> None:
        slot = next(self._slots, None)
        if slot is not None:
            self._waiting.append(self._pool.submit(self._read, slot))
