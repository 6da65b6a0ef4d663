"""A run of one rank in the driver's own process: nothing to start or to survive, for rehearsals and debuggers."""

import ctypes
import gc
import os

import torch
import torch.distributed as dist

from skyreels.training.stop import forget_request
from skyreels.training.worker import Job, train_rank


def work_here(job: Job) -> None:
    """As `worker.work`, without Ray's workers."""
    _join_group_of_one()
    forget_request()
    try:
        train_rank(job, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    finally:
        _give_memory_back()


def _join_group_of_one() -> None:
    """A process group of this process alone. It stays for the next run: DeepSpeed binds itself to the first one."""
    if dist.is_initialized():
        return
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


def _give_memory_back() -> None:
    """glibc keeps what a run's threads have freed; over the thirteen stages that came to four gigabytes."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim is not None:
        trim(0)
