"""Connecting to Ray: join the cluster we were submitted to, or start a private one on this machine."""

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

_OF_ONE_MACHINE = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",
    "LOG_NAME_UPDATE_INTERVAL_S": "1000000",
}
"""For a private cluster: looking at its workers costs nothing, nobody takes its node away, and nobody is sent the lines
of logs, for which Ray's monitor would look through all of them ten times a second. They stay in files."""


class NoCluster(ConnectionError):
    """Ray could not be started, or the one that is named could not be joined."""


@contextmanager
def connect(*, num_cpus: int | None = None, object_store_bytes: int | None = None) -> Iterator[bool]:
    """A Ray connection for the block; True where it is to a Ray that ends with the block.

    Inside `ray job submit`, and where RAY_ADDRESS is set, it joins that cluster and leaves it running; otherwise
    it starts one on this machine, on loopback, and stops it at the end. A connection that is already open is
    used as it is. Raises NoCluster with what to do where there is none.
    """
    import ray  # here, so that what runs in one process needs no Ray

    if ray.is_initialized():
        yield False
        return
    options: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": False}
    options["runtime_env"] = {"worker_process_setup_hook": "skyreels.cluster.prepare_worker"}
    if not os.environ.get("RAY_ADDRESS"):
        options |= {"address": "local", "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        options |= {"num_cpus": num_cpus, "object_store_memory": object_store_bytes}
        for name, value in _OF_ONE_MACHINE.items():
            os.environ.setdefault(name, value)
    _start(options)
    _quiet_ray_data()
    try:
        yield not os.environ.get("RAY_ADDRESS")
    finally:
        ray.shutdown()


def is_own() -> bool:
    """Whether the Ray that this process is connected to was started by it, and ends with it."""
    from ray._private import worker

    node = worker._global_node
    return node is not None and bool(node.is_head())


def _start(options: dict[str, Any]) -> None:
    import ray

    try:
        ray.init(**options)
    except Exception as error:  # of no common kind: a start that takes too long is a bare Exception
        if address := os.environ.get("RAY_ADDRESS"):
            what = f"cannot join the Ray cluster {address}, which RAY_ADDRESS names"
            remedy = "start it, or unset RAY_ADDRESS for a Ray of this machine's own"
        else:
            what = "cannot start Ray on this machine"
            remedy = (
                "wait until the machine is less busy, free memory or space for temporary files, or set TMPDIR to a "
                "short path; then run the same command again"
            )
        raise NoCluster(f"{what}: {str(error).strip() or type(error).__name__}; {remedy}") from error


class LazyCluster:
    """A connection that is made when first needed: a run with nothing to do never starts Ray."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._joined = False

    def join(self) -> None:
        if not self._joined:
            self._stack.enter_context(connect())
            self._joined = True

    def __enter__(self) -> "LazyCluster":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


def prepare_worker() -> None:
    """Runs first in every Ray worker: importing skyreels makes torchvision importable there."""
    import skyreels  # noqa: F401


def _quiet_ray_data() -> None:
    """Our own progress is on the terminal; Ray Data's bars and plans would bury it.

    Its tracebacks as well: what it logs as an error it also raises, and whoever catches that says it in a sentence.
    """
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns that its bars are off
    for name in ("ray.data.exceptions", "ray.data._internal.execution.streaming_executor_state"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
