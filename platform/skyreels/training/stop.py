"""SIGTERM on a worker, or a request from the driver: finish the step, write a checkpoint, end."""

import signal
import threading
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.train.torch import TorchConfig

_requested = threading.Event()  # of this process: signals have no other way to the training thread


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


def catch_sigterm() -> None:
    forget_request()
    signal.signal(signal.SIGTERM, lambda *_: _requested.set())


def forget_request() -> None:
    """Before another run in this process."""
    _requested.clear()


def stop_requested() -> bool:
    """Whether this process was asked to stop."""
    return _requested.is_set()


def follow_board(board: Any) -> None:
    """Take the driver's request to stop for one of this process, from a thread that ends with the board."""

    def wait() -> None:
        try:
            while not ray.get(board.stop_requested.remote(60)):
                pass
        except RayActorError:
            return  # the run is over; its process may go on to the next
        _requested.set()

    threading.Thread(target=wait, name="stop-request", daemon=True).start()
