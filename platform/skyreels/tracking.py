"""MLflow runs that never stop the work: an unreachable server costs a warning, not the job."""

import logging
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_REQUEST_ENV = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}


@dataclass
class TrackedRun:
    """One MLflow run; `run_id` is empty when nothing is tracked. Every call is safe to make either way."""

    run_id: str = ""
    uri: str = ""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self._log("log_metrics", {name: float(value) for name, value in values.items()}, step=step)

    def params(self, values: Mapping[str, Any]) -> None:
        self._log("log_params", {name: str(value)[:6000] for name, value in values.items()})

    def artifact(self, path: Path) -> None:
        self._log("log_artifact", str(path))

    def _log(self, call: str, *args: Any, **kwargs: Any) -> None:
        if not self.run_id:
            return
        import mlflow

        try:
            getattr(mlflow, call)(*args, run_id=self.run_id, **kwargs)
        except (mlflow.MlflowException, OSError) as error:
            logger.warning("tracking: %s failed, going on without it: %s", call, error)


@contextmanager
def track(experiment: str, *, run_name: str, params: Mapping[str, Any], enabled: bool = True) -> Iterator[TrackedRun]:
    """A run in `experiment`, ended as FINISHED, or as FAILED when the block raises.

    Where: MLFLOW_TRACKING_URI, else `mlflow.db` in the working directory with artifacts in `mlartifacts`.
    """
    run = _start(experiment, run_name) if enabled else TrackedRun()
    run.params({**params, "git_sha": git_sha()})
    try:
        yield run
    except BaseException:
        _end(run, "FAILED")
        raise
    _end(run, "FINISHED")


def git_sha() -> str:
    """The commit of the code that runs, with `-dirty` for local changes; `unknown` outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _start(experiment: str, run_name: str) -> TrackedRun:
    for name, value in _REQUEST_ENV.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    import mlflow

    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"
    try:
        client = mlflow.MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment)
        # Named here and not left to MLflow: one made inside a Ray worker would lie in Ray's temporary folder.
        place = None if "://" in uri and not uri.startswith("sqlite") else (Path.cwd() / "mlartifacts").as_uri()
        experiment_id = found.experiment_id if found else client.create_experiment(experiment, artifact_location=place)
        mlflow.set_tracking_uri(uri)
        run = client.create_run(experiment_id, run_name=run_name)
    except (mlflow.MlflowException, OSError) as error:
        logger.warning("tracking: %s cannot be reached, going on without it: %s", uri, error)
        return TrackedRun()
    return TrackedRun(run.info.run_id, uri)


def _end(run: TrackedRun, status: str) -> None:
    if not run.run_id:
        return
    import mlflow

    try:
        mlflow.MlflowClient(tracking_uri=run.uri).set_terminated(run.run_id, status)
    except (mlflow.MlflowException, OSError) as error:
        logger.warning("tracking: the run could not be ended: %s", error)
