"""A run's events as a file of metrics, curves and artifacts."""

import json

import pytest

from pipelines.training.stages.observe import METRICS_FILE, Observer, read_metrics
from skyreels.training.events import (
    CheckpointWritten,
    HeldOut,
    SamplesUnreadable,
    SamplesWritten,
    Started,
    StepDone,
    StepSkipped,
)


class Recorded:
    """Stands where an MLflow run would, and keeps what it is told."""

    def __init__(self):
        self.points, self.files, self.tagged = [], [], {}

    def metrics(self, values, step=None):
        self.points.append((step, dict(values)))

    def artifact(self, path, folder=None):
        self.files.append((path.name, folder))

    def tags(self, values):
        self.tagged |= values


@pytest.fixture
def run():
    return Recorded()


def started(step=0):
    return Started(step, 2, 1, "cpu", 100, 100, 1600)


def test_every_step_is_a_line_and_a_step_done_again_replaces_the_first_time(run, tmp_path):
    with Observer(run, tmp_path, "joint", 4, quiet=True) as observe:
        observe(started())
        for step, loss in enumerate((4.0, 3.0, 2.5)):
            observe(StepDone(step, {"loss": loss, "loss/t2av/audio": loss / 2}))
        observe(started(step=1))
        for step, loss in ((1, 3.0), (2, 2.0), (3, 1.0)):
            observe(StepDone(step, {"loss": loss}))
    lines = [json.loads(line) for line in (tmp_path / METRICS_FILE).read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 1, 2, 3]
    assert {step: row["loss"] for step, row in read_metrics(tmp_path).items()} == {0: 4.0, 1: 3.0, 2: 2.0, 3: 1.0}
    assert read_metrics(tmp_path)[0]["loss/t2av/audio"] == 2.0
    assert run.tagged["workers"] == 2
    assert run.tagged["starts_by_this_driver"] == 2


def test_a_long_run_is_logged_as_means_over_windows_of_what_was_measured_in_them(run, tmp_path):
    with Observer(run, tmp_path, "joint", 1000, quiet=True) as observe:
        observe(StepDone(0, {"loss": 4.0, "loss/t2v/video": 1.0}))
        observe(StepDone(1, {"loss": 2.0}))
    assert run.points == [(1, {"loss": 3.0, "loss/t2v/video": 1.0})]


def test_the_last_point_is_logged_however_the_windows_fall(run, tmp_path):
    with Observer(run, tmp_path, "joint", 1001, quiet=True) as observe:
        observe(StepDone(1000, {"loss": 2.0}))
    assert run.points == [(1000, {"loss": 2.0})]


def test_what_goes_wrong_is_counted_and_samples_are_kept_by_step(run, tmp_path):
    clip = tmp_path / "t2av.mp4"
    clip.write_bytes(b"clip")
    with Observer(run, tmp_path, "joint", 10, quiet=True) as observe:
        observe(StepSkipped(3, "the loss is nan", ("a", "b")))
        observe(StepSkipped(4, "the loss is nan", ("c",)))
        observe(SamplesUnreadable(5, ("shard-0: key: damaged",), 7))
        observe(CheckpointWritten(5, "there", 100, 0.5))
        observe(SamplesWritten(5, (str(clip), "s3://bucket/elsewhere.mp4")))
    assert ("skipped_steps", 2) in [item for _, point in run.points for item in point.items()]
    assert (5, {"unreadable_samples": 7}) in run.points
    assert (5, {"checkpoint/seconds": 0.5, "checkpoint/bytes": 100}) in run.points
    assert run.files == [("t2av.mp4", "samples/step-00000005")]


def test_losses_on_what_is_held_out_are_logged(run, tmp_path):
    with Observer(run, tmp_path, "joint", 4, quiet=True) as observe:
        observe(HeldOut(0, {"start": 1.8}))
        observe(HeldOut(4, {"start": 1.8, "trained": 1.5, "averaged": 1.6}))
    assert run.points == [
        (0, {"held_out/start": 1.8}),
        (4, {"held_out/start": 1.8, "held_out/trained": 1.5, "held_out/averaged": 1.6}),
    ]


def test_a_line_that_a_kill_cut_short_spoils_neither_the_next_nor_the_reading(run, tmp_path):
    with Observer(run, tmp_path, "joint", 4, quiet=True) as observe:
        observe(StepDone(0, {"loss": 4.0}))
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"step": 1, "lo')
    with Observer(run, tmp_path, "joint", 4, quiet=True) as observe:
        observe(StepDone(1, {"loss": 3.0}))
    assert {step: row["loss"] for step, row in read_metrics(tmp_path).items()} == {0: 4.0, 1: 3.0}
