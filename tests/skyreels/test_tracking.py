"""Tracking: a real MLflow run on SQLite, one that ends as failed, and a server that is not there."""

import logging
import socket
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import mlflow
import pytest

from skyreels import tracking


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")


@pytest.mark.slow
def test_a_run_keeps_params_metrics_and_artifacts_beside_the_working_directory(store, tmp_path):
    report = tmp_path / "report.html"
    report.write_text("<p>")
    with tracking.track("curation", run_name="r", params={"recipe": "default"}) as run:
        run.metrics({"kept": 3}, step=1)
        run.artifact(report)
    kept = store.get_run(run.run_id)
    assert kept.info.status == "FINISHED"
    assert kept.data.params["recipe"] == "default"
    assert kept.data.params["git_sha"]
    assert kept.data.metrics["kept"] == 3
    assert list((tmp_path / "mlartifacts").rglob("report.html"))
    with pytest.raises(RuntimeError), tracking.track("curation", run_name="r", params={}) as failed:
        raise RuntimeError
    assert store.get_run(failed.run_id).info.status == "FAILED"


@pytest.mark.slow
def test_a_restart_goes_on_with_its_run_and_versions_are_registered(store, tmp_path):
    with tracking.track("training", run_name="joint", params={"lr": 1}) as run:
        run.metrics({"loss": 2.0}, step=1)
    with tracking.track("training", run_name="joint", params={"lr": 2}, run_id=run.run_id) as again:
        again.metrics({"loss": 1.0}, step=2)
        again.tags({"restarts": 1})
        (tmp_path / "export").mkdir()
        (tmp_path / "export" / "clip.mp4").write_bytes(b"clip")
        again.artifact(tmp_path / "export", "samples")
        versions = [again.register("skyreels", (tmp_path / "export").as_uri(), ("joint",)) for _ in range(2)]
    assert again.run_id == run.run_id
    kept = store.get_run(run.run_id)
    assert kept.info.status == "FINISHED"
    assert kept.data.params["lr"] == "1", "what a run began with is what it is known by"
    assert kept.data.tags["restarts"] == "1"
    assert [point.value for point in store.get_metric_history(run.run_id, "loss")] == [2.0, 1.0]
    assert list((tmp_path / "mlartifacts").rglob("samples/clip.mp4"))
    assert versions == ["1", "2"]
    assert store.get_model_version_by_alias("skyreels", "joint").version == 2
    with tracking.track("training", run_name="joint", params={}, run_id="0" * 32) as other:
        assert other.run_id not in ("", run.run_id), "a run that the store does not have is begun anew"


@pytest.mark.slow
def test_a_server_that_goes_away_is_left_alone_for_a_while(store, monkeypatch, caplog):
    with caplog.at_level(logging.WARNING), tracking.track("training", run_name="r", params={}) as run:
        monkeypatch.setattr(run, "uri", f"http://127.0.0.1:{_closed_port()}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        for step in range(3):
            run.metrics({"loss": 1.0}, step=step)
    assert run.lost == 3
    assert caplog.text.count("going on without it for") == 1
    assert "3 calls did not arrive" in caplog.text


@pytest.mark.slow
def test_an_unreachable_server_costs_a_warning_and_nothing_else(monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{_closed_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with caplog.at_level(logging.WARNING), tracking.track("curation", run_name="r", params={"a": 1}) as run:
        run.metrics({"kept": 3})
    assert run.run_id == ""
    assert "going on without it" in caplog.text


@pytest.mark.parametrize("fault", ["garbage", "folder", "below a file", "read-only"])
def test_a_database_that_cannot_be_made_costs_one_warning_at_once(tmp_path, monkeypatch, caplog, fault, as_nobody):
    path = tmp_path / "mlflow.db"
    if fault == "garbage":
        path.write_bytes(b"not a database " * 1000)
    elif fault == "folder":
        path.mkdir()
    elif fault == "below a file":
        path.write_text("")
        path = path / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    tmp_path.chmod(0o755)

    def tracked():
        with caplog.at_level(logging.WARNING), tracking.track("curation", run_name="r", params={"a": 1}) as run:
            run.metrics({"kept": 3})
        return run

    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  (not part of what is timed)

    started = time.monotonic()
    assert (as_nobody(tracked) if fault == "read-only" else tracked()) == tracking.TrackedRun()
    assert time.monotonic() - started < 10
    assert len(caplog.records) == 1
    assert "going on without it (set MLFLOW_TRACKING_URI" in caplog.text


@pytest.mark.slow
def test_a_database_in_use_is_waited_for(store, tmp_path):
    store.search_experiments()
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        tracking._check_database(f"sqlite:///{tmp_path / 'mlflow.db'}")


@pytest.mark.parametrize("content", [b"\xff\x00garbage" * 500, b"SQLite format 3\x00" + b"\xff" * 5000])
def test_a_damaged_store_costs_a_warning_at_once_and_is_left_as_it_is(tmp_path, monkeypatch, caplog, content):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").write_bytes(content)
    began = time.monotonic()
    with caplog.at_level(logging.WARNING), tracking.track("curation", run_name="r", params={"a": 1}) as run:
        run.metrics({"kept": 3})
    assert run.run_id == ""
    assert "mlflow.db cannot be used, going on without it" in caplog.text
    assert "move" in caplog.text
    assert (tmp_path / "mlflow.db").read_bytes() == content
    assert time.monotonic() - began < 60


@pytest.mark.slow
def test_a_store_that_is_damaged_under_way_costs_a_warning(store, tmp_path, caplog):
    with caplog.at_level(logging.WARNING), tracking.track("training", run_name="r", params={}) as run:
        assert run.run_id
        for path in tmp_path.glob("mlflow.db*"):
            path.write_bytes(b"\xff\x00garbage" * 500)
        run.metrics({"loss": 1.0}, step=1)
    assert run.lost == 1
    assert "going on without it for" in caplog.text


def test_nothing_is_tracked_unless_asked():
    with tracking.track("curation", run_name="r", params={"a": 1}, enabled=False) as run:
        run.metrics({"kept": 3})
    assert run == tracking.TrackedRun()


def _closed_port():
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_run_that_is_not_tracked_needs_no_mlflow(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "mlflow.entities", None)
    with tracking.track("nowhere", run_name="none", params={"a": 1}, enabled=False) as run:
        run.metrics({"loss": 1.0}, 0)
        run.tags({"b": 2})
        run.artifact(Path(__file__))
        assert run.register("model", "file:///nowhere", ()) is None
