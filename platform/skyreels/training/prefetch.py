"""Batches ahead of the step, by threads of this process or by processes of their own."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, Protocol, TypeVar, cast

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from skyreels.training.config import EngineConfig
from skyreels.training.trainable import Slot

T = TypeVar("T")
C = TypeVar("C", covariant=True)


class Ahead(Protocol[C]):
    """Batches of slots in their order."""

    def take(self) -> tuple[C, float]:
        """The next slot's batch, and the seconds that the caller waited for it. Errors of reading are raised here."""

    def close(self) -> None: ...


def batches_ahead(
    read: Callable[[Slot], T], slots: Iterator[Slot], config: EngineConfig, device: torch.device
) -> Ahead[T]:
    """As the settings say; for a GPU, processes leave batches in pinned memory."""
    if config.readers:
        return ReaderProcesses(read, slots, config.prefetch, config.readers, pinned=device.type == "cuda")
    return Prefetch(read, slots, config.prefetch, max(1, int(config.cpus_per_worker) - 1))


class Prefetch(Generic[T]):
    """`read` of each slot in order, up to `ahead` of them before they are asked for, in `threads` threads."""

    def __init__(self, read: Callable[[Slot], T], slots: Iterator[Slot], ahead: int, threads: int) -> None:
        self._read, self._slots = read, slots
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="batch")
        self._waiting: deque[Future[T]] = deque()
        for _ in range(ahead):
            self._submit()

    def take(self) -> tuple[T, float]:
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


class ReaderProcesses(Generic[T]):
    """The same by forked processes, each up to `ahead` batches before they are asked for: PyTorch's loader.

    A batch that is to be `pinned` has a method `pin_memory`, as the loader asks for.
    """

    def __init__(
        self, read: Callable[[Slot], T], slots: Iterator[Slot], ahead: int, processes: int, *, pinned: bool
    ) -> None:
        self._loader = DataLoader(
            _Read(read),
            batch_size=None,
            sampler=_InOrder(slots),
            num_workers=processes,
            prefetch_factor=ahead,
            collate_fn=_as_it_is,
            pin_memory=pinned,
            multiprocessing_context="fork",
        )
        self._batches: Any = iter(self._loader)

    def take(self) -> tuple[T, float]:
        begin = time.perf_counter()
        batch = cast(T, next(self._batches))
        return batch, time.perf_counter() - begin

    def close(self) -> None:
        self._batches = None  # the loader ends its processes with its iterator


class _Read(Dataset[T]):
    def __init__(self, read: Callable[[Slot], T]) -> None:
        self._read = read

    def __getitem__(self, slot: Slot) -> T:
        return self._read(slot)


class _InOrder(Sampler[Slot]):
    def __init__(self, slots: Iterator[Slot]) -> None:
        self._slots = slots

    def __iter__(self) -> Iterator[Slot]:
        return self._slots


def _as_it_is(batch: T) -> T:
    return batch
