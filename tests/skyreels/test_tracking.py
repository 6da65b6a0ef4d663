"""Tracking: a real MLflow run on SQLite, one that ends as failed, and a server that is not there."""

import logging
import socket

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
def test_an_unreachable_server_costs_a_warning_and_nothing_else(monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{_closed_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with caplog.at_level(logging.WARNING), tracking.track("curation", run_name="r", params={"a": 1}) as run:
        run.metrics({"kept": 3})
    assert run.run_id == ""
    assert "going on without it" in caplog.text


def test_nothing_is_tracked_unless_asked():
    with tracking.track("curation", run_name="r", params={"a": 1}, enabled=False) as run:
        run.metrics({"kept": 3})
    assert run == tracking.TrackedRun()


def _closed_port():
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
