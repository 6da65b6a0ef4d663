"""What is done with a run's events: a progress bar, a line per step in `metrics.jsonl`, curves and samples in MLflow.

All of it happens in the driver. Workers may come and go; there is one bar, one file and one MLflow run.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from pipelines.training.stages.asked import side_by_side
from skyreels.progress import Progress
from skyreels.storage import is_remote
from skyreels.tracking import TrackedRun
from skyreels.training.config import EngineConfig
from skyreels.training.events import (
    CheckpointDamaged,
    CheckpointWritten,
    Event,
    HeldOut,
    SamplesUnreadable,
    SamplesWritten,
    Started,
    StepDone,
    StepSkipped,
)
from skyreels.training.fit import Outcome, fit
from skyreels.training.trainable import Trainable

METRICS_FILE = "metrics.jsonl"
_SHOWN = ("loss", "tokens_per_second")
_LOGGED_POINTS = 500  # of a run, at most: curves stay quick to draw however long it is


def fit_observed(
    make: Callable[[], Trainable],
    engine: EngineConfig,
    folder: Path,
    stage: str,
    run: TrackedRun,
    *,
    quiet: bool = False,
) -> Outcome:
    """Train on the engine, checkpoints in `folder`, with everything that happens told, written down and tracked."""
    with Observer(run, folder, stage, engine.steps, quiet=quiet) as observe:
        return fit(make, engine, str(folder), observe)


class Observer:
    """Callable with each event of a run of `steps` steps. Use it as a context manager."""

    def __init__(self, run: TrackedRun, folder: Path, stage: str, steps: int, *, quiet: bool = False) -> None:
        self._run, self._folder, self._stage, self._steps = run, folder, stage, steps
        self._every = max(1, steps // _LOGGED_POINTS)
        self._window: dict[str, list[float]] = {}
        self._bar = Progress(stage, steps, "steps", quiet=quiet)
        self._lines: TextIO = _appended(folder / METRICS_FILE)
        self._starts = self._skipped = 0

    def __enter__(self) -> "Observer":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
        self._lines.close()

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepDone):
            self._step(event)
        elif isinstance(event, Started):
            self._started(event)
        elif isinstance(event, StepSkipped):
            self._skipped += 1
            self._run.metrics({"skipped_steps": self._skipped}, event.step)
            self._say(f"step {event.step} was left out: {event.reason} (samples {', '.join(event.keys[:4])})")
        elif isinstance(event, SamplesUnreadable):
            self._run.metrics({"unreadable_samples": event.total}, event.step)
            self._say(f"{event.total} samples were replaced so far; the last: {event.reasons[-1]}")
        elif isinstance(event, CheckpointWritten):
            self._run.metrics({"checkpoint/seconds": event.seconds, "checkpoint/bytes": event.bytes}, event.step)
        elif isinstance(event, CheckpointDamaged):
            self._say(f"the checkpoint of step {event.step} is damaged and left aside: {'; '.join(event.problems)}")
        elif isinstance(event, HeldOut):
            self._run.metrics({f"held_out/{name}": loss for name, loss in event.losses.items()}, event.step)
        elif isinstance(event, SamplesWritten):
            for file in event.files:
                if not is_remote(file):
                    self._run.artifact(Path(file), f"samples/step-{event.step:08d}")
            for sheet in side_by_side(self._folder / "samples"):
                self._run.artifact(sheet, "samples/side-by-side")

    def _started(self, event: Started) -> None:
        self._starts += 1
        self._bar.update(event.step - self._bar.done)
        self._run.tags({"workers": event.workers, "device": event.device, "starts_by_this_driver": self._starts})
        self._run.metrics({"sharded_state_bytes": event.state_bytes, "workers": event.workers}, event.step)
        word = "starts" if self._starts == 1 else "goes on"
        rows = f"{event.workers} workers, {event.accumulation} micro-batches each per step"
        self._say(f"{self._stage} {word} at step {event.step} of {self._steps} on {event.device}: {rows}")

    def _step(self, event: StepDone) -> None:
        self._lines.write(json.dumps({"step": event.step, **event.metrics}) + "\n")
        self._lines.flush()
        shown = [f"{name}={event.metrics[name]:.3g}" for name in _SHOWN if name in event.metrics]
        self._bar.update(event.step + 1 - self._bar.done, ", ".join(shown))
        for name, value in event.metrics.items():
            self._window.setdefault(name, []).append(value)
        if (event.step + 1) % self._every == 0 or event.step + 1 == self._steps:
            self._run.metrics({name: sum(values) / len(values) for name, values in self._window.items()}, event.step)
            self._window = {}

    def _say(self, line: str) -> None:
        self._bar.say(line)


def read_metrics(folder: Path) -> dict[int, Mapping[str, float]]:
    """Metrics by step; where a step was done again after a restart, the last time counts.

    A line that a kill cut short is passed over: its step is done again.
    """
    rows = [row for line in (folder / METRICS_FILE).read_text().splitlines() if (row := _row(line)) is not None]
    return {row["step"]: {name: value for name, value in row.items() if name != "step"} for row in rows}


def _row(line: str) -> dict[str, Any] | None:
    try:
        row: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row


def _appended(file: Path) -> TextIO:
    """Open to add lines, behind the end of a line that a kill cut short."""
    cut_short = file.is_file() and file.read_bytes()[-1:] not in (b"", b"\n")
    lines = file.open("a")
    if cut_short:
        lines.write("\n")
    return lines
