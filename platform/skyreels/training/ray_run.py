"""A run on Ray Train, with ZeRO-3 over its workers."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from skyreels import cluster
from skyreels.storage import Storage, resolve
from skyreels.training.board import RemoteBoard, open_board
from skyreels.training.config import EngineConfig
from skyreels.training.errors import TrainingError
from skyreels.training.events import Event
from skyreels.training.stop import catch_sigterm, stopping_on_signals
from skyreels.training.trainable import Trainable
from skyreels.training.worker import Job, train_rank
from skyreels.training.zero import load_settings


def fit_on_ray(
    make: Callable[[], Trainable], config: EngineConfig, run: str, observe: Callable[[Event], None]
) -> str | None:
    """Train; what went wrong in words, where another attempt would meet it again."""
    settings = load_settings(config)
    with cluster.connect():
        _check_resources(config)
        board = open_board()
        with stopping_on_signals(board.request_stop.remote):
            _follow(_trainer(Job(make, config, settings, run, RemoteBoard(board))).fit, board, observe)
        failure: str | None = ray.get(board.failure.remote())
        ray.kill(board)
    return failure


def work(job: Job) -> None:
    """Ray Train's training function."""
    train_rank(job, get_device())


class WithoutSpareProcesses(TorchTrainer):  # type: ignore[misc]  # Ray's classes are Any here
    """Ray Train without the processes that nobody asks here.

    Ranks read the shards themselves, where Ray's hand-over of datasets would be two. Another gives the workers' places
    back after a controller that has died: to a cluster of others, but not to a Ray that ends with this process.
    """

    def _create_default_callbacks(self) -> list[Any]:
        spare = (DatasetsCallback, PlacementGroupCleanerCallback) if cluster.is_own() else (DatasetsCallback,)
        return [each for each in super()._create_default_callbacks() if not isinstance(each, spare)]


class StoppableTorchConfig(TorchConfig):  # type: ignore[misc]  # Ray's classes are Any here
    """Ray's torch set-up on workers that take SIGTERM as a request to stop.

    A training function runs in a thread, where Python installs no signal handlers; a backend's `on_start` runs
    functions in the workers' main threads.
    """

    @property
    def backend_cls(self) -> type:
        return _StoppableTorchBackend


class _StoppableTorchBackend(TorchConfig().backend_cls):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(catch_sigterm)
        super().on_start(worker_group, backend_config)


def _trainer(job: Job) -> WithoutSpareProcesses:
    config = job.config
    elastic = config.min_workers is not None and config.min_workers < config.workers
    filesystem, path = resolve(Storage(job.run).location("ray"))
    return WithoutSpareProcesses(
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
