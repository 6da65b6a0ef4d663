"""The engine against a bare PyTorch loop, and what it keeps and loses: step time, data wait, memory, restarts.

    make train STAGE=joint && python benchmarks/training.py          # a stage's own model, batches and latents
    python benchmarks/training.py --runs runs/demo/train --stage sft-1 --only step,restart

Both sides of a ratio run here, one after the other, twice, on one thread per rank; the figure is the median step.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

# This file is called as a script: its own folder would be first on the path, and it holds a `model` too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")

import psutil
import torch

from pipelines.training.curriculum.request import Request, TrainingPlan
from pipelines.training.learners.transformer import StageMaker
from pipelines.training.stages.run_record import read_run
from skyreels import cluster
from skyreels.training.config import EngineConfig
from skyreels.training.events import Event, Started, StepDone
from skyreels.training.fit import fit
from skyreels.training.schedule import learning_rate
from skyreels.training.trainable import Slot

WARM_UP = 3


@dataclass(frozen=True)
class Measured:
    """One run of the engine: when each event came (seconds of a monotonic clock), and the event."""

    events: list[tuple[float, Event]]

    @property
    def steps(self) -> list[StepDone]:
        """Steps after warm-up."""
        return [event for _, event in self.events if isinstance(event, StepDone) and event.step >= WARM_UP]

    @property
    def started(self) -> list[tuple[float, Started]]:
        return [(at, event) for at, event in self.events if isinstance(event, Started)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/train"), help="an output folder of jobs/train.py")
    parser.add_argument("--stage", default="joint", help="one of its finished stages (default: joint)")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--width", type=int, help="a network of this width with fresh weights, not the stage's own")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--only", default="step,memory,restart", help="of step, memory, restart")
    options = parser.parse_args()
    torch.set_num_threads(1)
    maker, config = stage_of(options.runs.resolve(), options.stage, options.preset, options.steps)
    if options.width:
        maker = widened(maker, options.width)
    sections: dict[str, Callable[[StageMaker, EngineConfig], Iterator[str]]] = {
        "step": step,
        "memory": memory,
        "restart": restart,
    }
    with cluster.connect():
        for name in options.only.split(","):
            for line in sections[name](maker, config):
                print(line, flush=True)


def stage_of(runs: Path, name: str, preset: str, steps: int) -> tuple[StageMaker, EngineConfig]:
    """A finished stage's trainable, and its engine's settings for a short run without averages."""
    training = TrainingPlan.of(Request(name, runs, "", preset))
    stage = training.stage(name)
    caches = {dataset: str(runs / "latents" / cache) for dataset, cache in (read_run(runs / name).caches or {}).items()}
    if not caches or training.curriculum.finished(name) is None:
        raise SystemExit(f"{runs} has no finished {name}: make train STAGE={name} first, or give --runs")
    latents = caches if len(caches) > 1 else next(iter(caches.values()))
    starts = tuple(
        str(Path(parent.export) / "transformer")
        for parent_name, parent in training.curriculum.parents(name).items()
        if parent_name != "codecs"
    )
    maker = StageMaker(stage, latents, starts, str(training.components))
    checkpoint = stage.recipe.checkpoint.model_copy(update={"every_steps": 10})
    changed = {"checkpoint": checkpoint, "ema": None, "samples_every_steps": None}
    return maker, stage.engine(steps).model_copy(update=changed)


def widened(maker: StageMaker, width: int) -> StageMaker:
    """The stage with a wider network, heads as wide as before: on a tiny one Python's own time is a third of a step."""
    preset = maker.stage.preset
    transformer = replace(preset.transformer, width=width, heads=width // preset.transformer.head_width)
    stage = replace(maker.stage, preset=replace(preset, transformer=transformer))
    return replace(maker, stage=stage, starts=())


def step(maker: StageMaker, config: EngineConfig) -> Iterator[str]:
    """A step on one rank against the same model, batches and optimizer in a plain loop."""
    once = config.model_copy(
        update={"workers": 1, "checkpoint": config.checkpoint.model_copy(update={"every_steps": 10**6})}
    )
    bare, engine, waits = [], [], []
    for _ in range(2):
        bare += bare_steps(maker, once)
        done = measured(maker, once).steps
        engine += [event.metrics["step_seconds"] for event in done]
        waits += [event.metrics["data_wait"] for event in done]
    ours, plain = statistics.median(engine), statistics.median(bare)
    ratio = f"ratio {ours / plain:.3f}   (target <= 1.10)"
    yield f"step, 1 rank        engine {ours:.3f} s   bare loop {plain:.3f} s   {ratio}"
    yield f"data wait           {statistics.mean(waits):.2%} of a step   (target < 2 %)"


def bare_steps(maker: StageMaker, config: EngineConfig) -> list[float]:
    """Seconds of each step after warm-up; batches are made beforehand."""
    trainable = maker()
    module = trainable.build()
    weights = trainable.initial_weights()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name in weights:
                parameter.copy_(weights[name])
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    settings = config.optimizer
    optimizer = torch.optim.AdamW(
        learning, settings.learning_rate, settings.betas, settings.eps, weight_decay=settings.weight_decay
    )
    batches = [[trainable.batch(Slot(at, slot)) for slot in range(trainable.slots)] for at in range(config.steps)]
    seconds = []
    for at, slots in enumerate(batches):
        begin = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(at, config)
        for batch in slots:
            (trainable.loss(module, batch).loss / len(slots)).backward()
        torch.nn.utils.clip_grad_norm_(learning, config.clip)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - begin)
    return seconds[WARM_UP:]


def memory(maker: StageMaker, config: EngineConfig) -> Iterator[str]:
    """Sharded state and resident memory of a rank, alone and of two."""
    held = {}
    for workers in (1, 2):
        run = measured(maker, config.model_copy(update={"workers": workers, "steps": WARM_UP + 1, "ema": 0.99}))
        resident = max(event.metrics["memory_bytes"] for event in run.steps)
        held[workers] = (run.started[0][1].state_bytes, resident)
    (alone, peak), (shared, peaks) = held[1], held[2]
    yield (
        f"sharded state       1 rank {alone / 2**20:.1f} MiB   each of 2 {shared / 2**20:.1f} MiB   "
        f"ratio {shared / alone:.3f}   (target <= 0.6)"
    )
    yield f"resident memory     1 rank {peak / 2**20:.0f} MiB   each of 2 {peaks / 2**20:.0f} MiB"


def restart(maker: StageMaker, config: EngineConfig) -> Iterator[str]:
    """SIGKILL of one of two workers: how long to the next new step, and how many steps were done twice."""
    killed_at: list[tuple[float, int]] = []

    def kill(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 13 and not killed_at:
            ours = psutil.Process().children(recursive=True)
            killed_at.append((time.perf_counter(), event.step))
            [process for process in ours if "RayTrainWorker" in " ".join(process.cmdline())][-1].kill()

    run = measured(maker, config.model_copy(update={"workers": 2}), kill)
    at, last = killed_at[0]
    again = next(event.step for _, event in run.started if event.step > 0)
    up = run.started[1][0]
    first = next(seen for seen, event in run.events if isinstance(event, StepDone) and seen > up)
    yield f"restart             {first - at:.1f} s from the kill to the next step   (target < 30 s)"
    interval = config.checkpoint.every_steps
    yield f"lost work           {last + 1 - again} steps, checkpoints every {interval}   (target <= {interval})"


def measured(maker: StageMaker, config: EngineConfig, then: Callable[[Event], None] = lambda event: None) -> Measured:
    """One run of the engine in a folder of its own; `then` is called with every event as it comes."""
    events: list[tuple[float, Event]] = []

    def observe(event: Event) -> None:
        events.append((time.perf_counter(), event))
        then(event)

    with TemporaryDirectory(prefix="skyreels-benchmark-") as folder:
        fit(maker, config, folder, observe)
    return Measured(events)


if __name__ == "__main__":
    main()
