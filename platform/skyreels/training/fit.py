"""Run a `Trainable` on Ray Train: start or resume, follow what happens, end."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from skyreels import cluster
from skyreels.storage import Storage, normalise, resolve
from skyreels.training.board import open_board
from skyreels.training.checkpoints import Checkpoints
from skyreels.training.config import EngineConfig
from skyreels.training.errors import TrainingError
from skyreels.training.events import Event, Started
from skyreels.training.local import work_here
from skyreels.training.stop import StoppableTorchConfig
from skyreels.training.trainable import Trainable
from skyreels.training.worker import Job, work
from skyreels.training.zero import load_settings


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    step: int
    """Steps that are done and in the last checkpoint."""
    stopped: bool
    """Asked to stop before the last step; the same call goes on from here."""
    checkpoint: str
    """Where the last checkpoint is; `open_checkpoint(run)` reads it."""
    restarts: int


def fit(
    make: Callable[[], Trainable],
    config: EngineConfig,
    run: str,
    observe: Callable[[Event], None] = lambda event: None,
) -> Outcome:
    """Train what `make` makes, in the run folder `run` (a path that all nodes share, or s3://).

    Goes on from the newest sound checkpoint in the folder, at any number of workers. `observe` gets every event, in
    this thread. SIGTERM and the first SIGINT end the run after the step, with a checkpoint. Raises TrainingError.
    """
    run = normalise(run)
    settings = load_settings(config)
    checkpoints = Checkpoints.of(run)
    latest = checkpoints.latest()
    if latest is not None and latest >= config.steps:
        sound = checkpoints.newest_sound(observe)
        if sound is not None and sound >= config.steps:
            return Outcome(sound, False, checkpoints.location(sound), 0)
    with cluster.connect():
        _check_resources(config)
        board = open_board()
        starts = _Counter(observe)
        with _stopping_on_signals(board):
            job = Job(make, config, settings, run, board)
            _follow(_trainer(job).fit if config.workers else partial(work_here, job), board, starts)
        failure = ray.get(board.failure.remote())
        ray.kill(board)
    if failure:
        raise TrainingError(failure)
    done = checkpoints.latest()
    if done is None:
        raise TrainingError(f"the run in {run} ended without a checkpoint")
    return Outcome(done, done < config.steps, checkpoints.location(done), max(starts.count - 1, 0))


class _Counter:
    """Passes events on and counts the starts among them."""

    def __init__(self, observe: Callable[[Event], None]) -> None:
        self._observe = observe
        self.count = 0

    def __call__(self, event: Event) -> None:
        self.count += isinstance(event, Started)
        self._observe(event)


def _trainer(job: Job) -> TorchTrainer:
    config = job.config
    elastic = config.min_workers is not None and config.min_workers < config.workers
    filesystem, path = resolve(Storage(job.run).location("ray"))
    return TorchTrainer(
        partial(work, job),  # and not as a config: Ray's controller would import all that the job is made of
        torch_config=StoppableTorchConfig(),
        scaling_config=ScalingConfig(
            num_workers=(config.min_workers, config.workers) if elastic else config.workers,
            use_gpu=config.gpus_per_worker > 0,
            resources_per_worker=_resources(config),
        ),
        run_config=RunConfig(
            name="train",
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=config.max_failures),
        ),
    )


def _resources(config: EngineConfig) -> dict[str, float]:
    resources = {"CPU": config.cpus_per_worker}
    return resources | {"GPU": config.gpus_per_worker} if config.gpus_per_worker else resources


def _check_resources(config: EngineConfig) -> None:
    """Ray would wait without end for what the cluster cannot give."""
    have = ray.cluster_resources()
    workers = config.min_workers or config.workers
    for name, each in _resources(config).items():
        if have.get(name, 0) < workers * each:
            raise TrainingError(
                f"{workers} workers need {workers * each:g} {name}; the cluster has {have.get(name, 0):g}: lower "
                f"workers or {'gpus' if name == 'GPU' else 'cpus'}_per_worker, or add nodes"
            )


def _follow(work: Callable[[], Any], board: Any, observe: Callable[[Event], None]) -> None:
    """Do the work in a thread and hand on events here, until both have come to an end."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 (raised again below, in the caller's thread)
            errors.append(error)

    thread = threading.Thread(target=run, name="ray-train", daemon=True)
    thread.start()
    ended = False
    try:
        while not ended:
            ended = not thread.is_alive()  # looked at before the last events are taken
            for event in ray.get(board.take.remote(0 if ended else 0.2)):
                observe(event)
    except BaseException:
        board.request_stop.remote()  # nobody follows the workers any more
        raise
    if errors and ray.get(board.failure.remote()) is None:
        raise TrainingError(f"the run was given up: {errors[0]}") from errors[0]


@contextmanager
def _stopping_on_signals(board: Any) -> Iterator[None]:
    """SIGTERM and SIGINT ask the run to stop; a second SIGINT interrupts. Only a main thread can take signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        board.request_stop.remote()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
