"""jobs/train.py refuses what cannot work before anything starts, and says what it would do."""

import json

import pytest

from jobs import train
from model.config import load_preset
from pipelines.training.curriculum.order import Curriculum
from pipelines.training.curriculum.recipe import STAGES
from pipelines.training.stages import train as run

pytestmark = pytest.mark.e2e


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A data folder with one dataset, whose manifest nobody opens here; training itself must not be reached."""
    manifest = tmp_path / "data" / "datasets" / "default" / "manifest.parquet"
    manifest.parent.mkdir(parents=True)
    manifest.write_bytes(b"")
    monkeypatch.setattr(run, "fit_observed", lambda *arguments, **options: pytest.fail("the engine was started"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, *words):
    assert train.main(["--data", "data", "--output", "runs", "--no-tracking", *words]) == 1
    return capsys.readouterr().err


def finish(stage, preset="tiny"):
    """A record of a stage that was trained with a preset."""
    curriculum = Curriculum("runs", load_preset(preset))
    return curriculum.mark_finished(stage, step=1, export=f"runs/{stage}/export", data="0")


def test_a_dry_run_plans_every_stage_and_writes_nothing(world, capsys):
    assert train.main(["--stage", "all", "--data", "data", "--output", "runs", "--dry-run"]) == 0
    said = capsys.readouterr().out
    places = [said.index(f"\n{stage}: from ") for stage in STAGES]
    assert places == sorted(places)
    assert said.count("memory ") == len(STAGES) - 1, "every stage but the codecs has its memory planned"
    assert not (world / "runs").exists()


def test_the_wrong_order_is_refused_with_what_is_missing(world, capsys):
    finish("codecs")
    said = refused(capsys, "--stage", "joint", "--only")
    assert "joint starts from video-6" in said
    assert "make train STAGE=video-6" in said


def test_weights_of_another_preset_are_refused(world, capsys):
    finish("codecs", preset="small")
    said = refused(capsys, "--stage", "video-1")
    assert "trained with another preset (small" in said


def test_a_stage_that_cannot_fit_is_refused_with_settings_that_would_make_it_fit(world, capsys):
    said = refused(capsys, "--stage", "video-5", "--preset", "v4", "--gpu", "h100", "--workers", "1")
    assert "GiB" in said
    assert "needs" in said


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--stage", "joynt"], "did you mean 'joint'"),
        (["--stage", "video-1", "--preset", "huge"], "no preset 'huge'"),
        (["--stage", "video-1", "video-1.optimiser.learning_rate=1"], "did you mean 'optimizer'"),
        (["--stage", "video-1", "--dataset", "sft"], "wants dataset sft"),
        (["--stage", "video-1", "--data", "nowhere"], "none: run jobs/curate.py"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_is_misspelt_or_missing_is_named(world, capsys, words, reason):
    assert reason in refused(capsys, *words)


def test_what_is_finished_is_not_trained_again(world, capsys):
    finish("codecs")
    assert train.main(["--stage", "codecs", "--data", "data", "--output", "runs"]) == 0
    assert "is finished" in capsys.readouterr().out
    assert json.loads((world / "runs/codecs/finished.json").read_text())["step"] == 1
