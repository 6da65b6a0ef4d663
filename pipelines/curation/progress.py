"""Progress of a running curation: counted by the workers, drawn by the driver, exported to Prometheus."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util import metrics
from tqdm import tqdm

from pipelines.curation.records import SourceReport, Status


def start_board() -> Any:
    """An actor that takes no CPU from the work."""
    return ray.remote(num_cpus=0)(Board).remote()


class Board:
    """Counts what workers report; the driver looks at it twice a second."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, counts: dict[str, float]) -> None:
        self._counts.update(counts)

    def snapshot(self) -> dict[str, float]:
        return dict(self._counts)


class SourceCounter:
    """Reports finished sources to the board and to Ray's Prometheus endpoint, from inside a worker."""

    def __init__(self, board: Any) -> None:
        self._board = board
        self._sources = metrics.Counter("skyreels_curation_sources", "Sources finished", ("kind", "status"))
        self._clips = metrics.Counter("skyreels_curation_clips", "Clips cut", ("kind",))
        self._seconds = metrics.Counter("skyreels_curation_media_seconds", "Seconds of media read", ("kind",))
        self._cpu = metrics.Counter("skyreels_curation_cpu_seconds", "CPU seconds spent", ("stage",))

    def __call__(self, report: SourceReport) -> None:
        kind = report.source.kind.value
        cut = sum(clip.rejection is None for clip in report.clips)
        self._sources.inc(1, {"kind": kind, "status": report.status.value})
        if cut:
            self._clips.inc(cut, {"kind": kind})
        if report.seconds:
            self._seconds.inc(report.seconds, {"kind": kind})
        for stage, seconds in report.timings.items():
            if seconds > 0:
                self._cpu.inc(seconds, {"stage": stage})
        failed = int(report.status is not Status.OK)
        counts = {"sources": 1, "clips": cut, "seconds": report.seconds, "rejected": failed}
        self._board.add.remote(counts | {f"cpu.{stage}": cpu for stage, cpu in report.timings.items()})


@contextmanager
def shown(title: str, total: int, unit: str, board: Any = None, quiet: bool = False) -> Iterator[tqdm]:
    """A progress bar; with a board, a thread moves it by what the workers counted."""
    bar = tqdm(total=total, desc=title, unit=f" {unit}", disable=quiet, dynamic_ncols=True, smoothing=0.1)
    done = threading.Event()
    watcher = threading.Thread(target=_follow, args=(bar, board, done), daemon=True) if board is not None else None
    if watcher:
        watcher.start()
    try:
        yield bar
    finally:
        done.set()
        if watcher:
            watcher.join()
        bar.close()


def _follow(bar: tqdm, board: Any, done: threading.Event) -> None:
    started = time.monotonic()
    last = False
    while not last:
        last = done.wait(0.5)
        counts = ray.get(board.snapshot.remote())
        hours = counts.get("seconds", 0.0) / 3600
        speed = counts.get("seconds", 0.0) / max(time.monotonic() - started, 1e-9)
        bar.n = int(counts.get("sources", 0))
        bar.set_postfix_str(
            f"{int(counts.get('clips', 0))} clips, {hours:.2f} h, {speed:.1f}x real time, "
            f"{int(counts.get('rejected', 0))} rejected"
        )
