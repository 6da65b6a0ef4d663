"""MLflow runs that never stop the work: an unreachable server costs a warning, not the job."""

import logging
import os
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_REQUEST_ENV = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
_DATABASES = ("postgresql", "mysql", "mssql")
_PAUSE_S = 60.0  # after a failed call nothing is tried for this long: the work goes on at its own pace


@dataclass
class TrackedRun:
    """One MLflow run; `run_id` is empty when nothing is tracked. Every call is safe to make either way.

    `lost` counts the calls that did not arrive: while a server is away, they are left out rather than waited for.
    """

    run_id: str = ""
    uri: str = ""
    lost: int = 0
    _silent_until: float = field(default=0.0, repr=False)

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        now = int(time.time() * 1000)

        def log(client: Any) -> None:
            from mlflow.entities import Metric

            logged = [Metric(name, float(value), now, step or 0) for name, value in values.items()]
            client.log_batch(self.run_id, metrics=logged)

        self._call(log)

    def params(self, values: Mapping[str, Any]) -> None:
        """Parameters that the run has already keep their first value, which is what a resumed run wants."""

        def log(client: Any) -> None:
            from mlflow.entities import Param

            logged = [Param(name, str(value)[:6000]) for name, value in values.items()]
            known = client.get_run(self.run_id).data.params
            client.log_batch(self.run_id, params=[param for param in logged if param.key not in known])

        self._call(log)

    def tags(self, values: Mapping[str, Any]) -> None:
        def log(client: Any) -> None:
            from mlflow.entities import RunTag

            client.log_batch(self.run_id, tags=[RunTag(name, str(value)) for name, value in values.items()])

        self._call(log)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file, or the files of a folder, below `folder` of the run's artifacts."""
        send = "log_artifacts" if path.is_dir() else "log_artifact"
        self._call(lambda client: getattr(client, send)(self.run_id, str(path), folder))

    def register(self, model: str, source: str, aliases: tuple[str, ...]) -> str | None:
        """A new version of the registered `model` at the URI `source`; the aliases move to it. Its version."""

        def create(client: Any) -> str:
            if not client.search_registered_models(f"name = '{model}'"):
                client.create_registered_model(model)
            version = client.create_model_version(model, source, self.run_id).version
            for alias in aliases:
                client.set_registered_model_alias(model, alias, version)
            return str(version)

        made: str | None = self._call(create)
        return made

    def _call(self, action: Callable[[Any], Any]) -> Any:
        if not self.run_id:
            return None
        if time.monotonic() < self._silent_until:
            self.lost += 1
            return None
        import mlflow

        try:
            return action(mlflow.MlflowClient(tracking_uri=self.uri))
        except _failures() as error:
            self.lost += 1
            self._silent_until = time.monotonic() + _PAUSE_S
            logger.warning("tracking: going on without it for %.0f s: %s", _PAUSE_S, error)
            return None


@contextmanager
def track(
    experiment: str, *, run_name: str, params: Mapping[str, Any], enabled: bool = True, run_id: str = ""
) -> Iterator[TrackedRun]:
    """A run in `experiment`, ended as FINISHED, or as FAILED when the block raises.

    `run_id` goes on with that run, if the store has it. Where: MLFLOW_TRACKING_URI, else `mlflow.db` in the working
    directory with artifacts in `mlartifacts`.
    """
    run = _start(experiment, run_name, run_id) if enabled else TrackedRun()
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


def _start(experiment: str, run_name: str, run_id: str) -> TrackedRun:
    for name, value in _REQUEST_ENV.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    import mlflow

    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"
    try:
        _check_database(uri)
        client = mlflow.MlflowClient(tracking_uri=uri)
        if run_id and _resumed(client, run_id):
            return TrackedRun(run_id, uri)
        found = client.get_experiment_by_name(experiment)
        # Named here and not left to MLflow: one made inside a Ray worker would lie in Ray's temporary folder.
        place = None if "://" in uri and not uri.startswith("sqlite") else (Path.cwd() / "mlartifacts").as_uri()
        experiment_id = found.experiment_id if found else client.create_experiment(experiment, artifact_location=place)
        run = client.create_run(experiment_id, run_name=run_name)
    except _failures() as error:
        remedy = "set MLFLOW_TRACKING_URI to one that can, move a damaged file away, or give --no-tracking"
        logger.warning("tracking: %s cannot be used, going on without it (%s): %s", uri, remedy, error)
        return TrackedRun()
    return TrackedRun(run.info.run_id, uri)


def _failures() -> tuple[type[Exception], ...]:
    """What a store that is away, full, read-only or damaged raises."""
    import mlflow
    from sqlalchemy.exc import SQLAlchemyError

    return mlflow.MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError


def _check_database(uri: str) -> None:
    """Raises at once where a database cannot be opened and written to: MLflow would try again for two minutes."""
    dialect = uri.partition("://")[0].partition("+")[0]
    if dialect == "sqlite":
        path = Path(uri.partition(":///")[2])
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("SELECT count(*) FROM sqlite_master")
            try:
                database.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:  # busy: another run writes, and MLflow waits for it
                    raise
    elif dialect in _DATABASES:
        import sqlalchemy

        sqlalchemy.create_engine(uri).connect().close()


def _resumed(client: Any, run_id: str) -> bool:
    """Whether the store has this run; it is marked as running again."""
    import mlflow

    try:
        client.update_run(run_id, status="RUNNING")
    except mlflow.MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True


def _end(run: TrackedRun, status: str) -> None:
    if run.lost:
        logger.warning("tracking: %d calls did not arrive; the run's own files hold everything", run.lost)
    if not run.run_id:
        return
    import mlflow

    try:
        mlflow.MlflowClient(tracking_uri=run.uri).set_terminated(run.run_id, status)
    except _failures() as error:
        logger.warning("tracking: the run could not be ended: %s", error)
