"""A run of one rank on one device, in this process, without Ray and without DeepSpeed.

What a workstation, a notebook or a debugger uses. Checkpoints are those of the engine: either goes on with the other's.
"""

import ctypes
import gc
import os
import sys
import threading
from collections.abc import Callable

import torch
import torch.distributed as dist

from skyreels.training.config import EngineConfig
from skyreels.training.errors import TrainingError
from skyreels.training.events import Event
from skyreels.training.stop import forget_request, request_stop, stopping_on_signals
from skyreels.training.trainable import Trainable
from skyreels.training.worker import Job, train_rank


def fit_here(
    make: Callable[[], Trainable], config: EngineConfig, run: str, observe: Callable[[Event], None]
) -> str | None:
    """Train; what went wrong in words, where another attempt would meet it again."""
    if config.deepspeed != "auto":
        raise TrainingError(
            f"deepspeed={config.deepspeed} and workers=0: one device in this process runs without DeepSpeed. Set "
            "workers to 1 or more, or leave deepspeed out"
        )
    _join_group_of_one()
    forget_request()
    driver = _Here(observe)
    try:
        with stopping_on_signals(request_stop):
            train_rank(
                Job(make, config, None, run, driver), torch.device("cuda" if torch.cuda.is_available() else "cpu")
            )
    except Exception:
        if driver.failure() is None:  # else it is told in words
            raise
    finally:
        _give_memory_back()
    return driver.failure()


class _Here:
    """The driver in the same process. Implements `worker.Driver`; a checkpoint's thread posts as well."""

    def __init__(self, observe: Callable[[Event], None]) -> None:
        self._observe = observe
        self._turn = threading.Lock()
        self._failure: str | None = None

    def post(self, event: Event) -> None:
        with self._turn:
            self._observe(event)

    def flush(self) -> None:
        """Everything has arrived when `post` returns."""

    def fail(self, message: str) -> None:
        self._failure = self._failure or message

    def failure(self) -> str | None:
        return self._failure

    def follow(self) -> None:
        """Signals reach this process by themselves."""


def _join_group_of_one() -> None:
    """A process group of this process alone. It stays for the next run."""
    if dist.is_initialized():
        return
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # it would look for this host's name, which may lead nowhere
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # on a GPU as well: nobody is asked


def _give_memory_back() -> None:
    """glibc keeps what a run's threads have freed; over the thirteen stages that came to four gigabytes."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim is not None:
        trim(0)
