"""CPU seconds, wall seconds and memory of commands and of whole trees of processes."""

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OPENCV_FFMPEG_CAPTURE_OPTIONS": "threads;1",
    "OPENCV_FOR_THREADS_NUM": "1",
}


class Cost(NamedTuple):
    """Of one command: its own CPU seconds and those of children that it waited for; the largest process's memory."""

    cpu_s: float
    wall_s: float
    peak_mb: float
    output: str


def run(command: Sequence[str]) -> Cost:
    """Run a command with one thread per library; it must succeed."""
    started = time.monotonic()
    process = subprocess.Popen(command, env=os.environ | ONE_THREAD, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as stream:
        output = stream.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return Cost(usage.ru_utime + usage.ru_stime, time.monotonic() - started, usage.ru_maxrss / 1024, output)


def peak_rss_mb(pid: int) -> float:
    """The most resident memory a running process ever had (VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/{pid}/status has no VmHWM: the process has ended")


@dataclass
class TreeMeter:
    """CPU seconds of this process and all its descendants since `start`, the ended ones as last seen.

    Ray's workers are not waited for by the driver, so resource usage of children does not know them: the tree is
    looked at five times a second instead. What a process uses after its last look is lost, at most 0.2 s of it.
    """

    every_s: float = 0.2
    peak_mb: float = 0.0  # of the largest process
    _used: dict[tuple[int, float], float] = field(default_factory=dict)
    _at_start: dict[tuple[int, float], float] = field(default_factory=dict)
    _started_s: float = 0.0

    def __enter__(self) -> "TreeMeter":
        self._look()
        self._at_start = dict(self._used)
        self._started_s = time.monotonic()
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        self._watcher.join()
        self._look()
        self.wall_s = time.monotonic() - self._started_s
        self.cpu_s = sum(used - self._at_start.get(key, 0.0) for key, used in self._used.items())

    def _watch(self) -> None:
        while not self._done.wait(self.every_s):
            self._look()

    def _look(self) -> None:
        this = psutil.Process()
        for process in (this, *this.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):  # it ended since it was listed
                times = process.cpu_times()
                self._used[process.pid, process.create_time()] = times.user + times.system
                self.peak_mb = max(self.peak_mb, process.memory_info().rss / 2**20)
