"""The job from models to a report: every suite can be asked of a generator; random weights score at chance."""

import json
import re
from html import unescape

import numpy as np
import pytest

from jobs import evaluate
from pipelines.evaluation.suites import SUITES
from skyreels.media.encode import write_flac, write_video


@pytest.fixture(scope="module")
def judged(random_model, tmp_path_factory):
    """The folder of one evaluation of random weights, all suites one by one."""
    output = tmp_path_factory.mktemp("judged")
    words = ["--model", str(random_model), "--suite", "all", "--n", "2", "--workers", "1", "--output", str(output)]
    assert evaluate.main([*words, "--no-tracking", "--quiet"]) == 0
    return output


def test_every_suite_can_be_asked_and_nothing_is_taken_for_right(judged):
    figures = json.loads((judged / "metrics.json").read_text())
    (told,) = figures["models"].values()
    assert set(told) == set(SUITES)
    assert {name: result["failed"] for name, result in told.items() if result["failed"]} == {}
    assert all(result["trusted"] for result in told.values())
    for name, metric in (("t2v", "shape"), ("t2av", "motion"), ("i2v", "identity"), ("recolour", "shape")):
        assert told[name]["scores"][metric]["value"] <= 0.5, name
    assert told["t2v"]["held"]["shape"]["reached"] < 0
    assert told["inpainting"]["scores"]["kept"]["value"] == 1.0  # whatever is made, kept pixels are put back


def test_of_every_suite_truth_reaches_the_ceiling_and_damage_does_not(judged):
    (told,) = json.loads((judged / "metrics.json").read_text())["models"].values()
    for name, result in told.items():
        controls = result["controls"]
        assert [control for control in controls if control["passed"] is False] == [], name
        assert {control["control"] for control in controls} >= {"truth", "noise"}, name
        assert {control["metric"] for control in controls if control["passed"]} >= set(result["held"]), name


def test_the_report_is_one_file_that_loads_nothing_and_plays(judged):
    page = unescape((judged / "report.html").read_text())
    assert page.count("<video") >= 2 * len(SUITES)
    assert "<audio" in page  # of what has no picture
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "default-src 'none'" in page
    assert "missed by" in page


def test_models_stand_side_by_side_under_names_that_tell_them_apart(tmp_path, capsys):
    words = ["--suite", "t2a", "--n", "2", "--output", str(tmp_path / "out"), "--no-tracking", "--quiet"]
    assert evaluate.main(["--model", "truth", *words]) == 0
    assert re.search(r"^t2a +sound +truth +1\.000 .* met ", capsys.readouterr().out, re.MULTILINE)
    assert evaluate._names(["runs/a/model", "runs/b/model", "truth"]) == {
        "a-model": "runs/a/model", "b-model": "runs/b/model", "truth": "truth"
    }  # fmt: skip


def test_files_of_unknown_truth_are_measured(tmp_path, capsys):
    rng = np.random.default_rng(0)
    write_video(tmp_path / "a.mp4", rng.integers(0, 256, (20, 32, 32, 3), np.uint8), 16)
    write_flac(tmp_path / "b.flac", np.ones((1, 44100), np.float32), 44100)
    assert evaluate.main(["--files", str(tmp_path / "a.mp4"), str(tmp_path / "b.flac")]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert re.search(r"a\.mp4: seconds 1\.25, sharpness [\d.]+, flicker [\d.]+$", first)
    assert "loudness_db" in second
    assert "clipping 1" in second
    (tmp_path / "c.mp4").write_text("no film")
    assert evaluate.main(["--files", str(tmp_path / "c.mp4")]) == 1
    assert "c.mp4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model", "nowhere"], "nowhere holds no model_index.json"),
        (["--model", "truth", "--suite", "dance"], "there is no suite dance"),
        (["--model", "truth", "--n", "1"], "--n 1: judge at least 2 films"),
        (["--model", "truth", "--draws", "0"], "--draws 0: every film is asked at least once"),
    ],
)
def test_mistakes_are_named_with_what_to_do(tmp_path, capsys, words, told):
    assert evaluate.main([*words, "--output", str(tmp_path), "--no-tracking", "--quiet"]) == 1
    assert told in capsys.readouterr().err


def test_suites_beside_each_other_score_what_they_score_one_by_one(judged, random_model, tmp_path):
    words = ["--model", str(random_model), "--suite", "i2v,t2a", "--n", "2", "--no-tracking", "--quiet"]
    assert evaluate.main([*words, "--workers", "2", "--output", str(tmp_path)]) == 0
    one, two = (json.loads((folder / "metrics.json").read_text())["models"] for folder in (judged, tmp_path))
    (one,), (two,) = one.values(), two.values()
    assert list(two) == ["i2v", "t2a"]
    for suite in two:
        for mine, theirs in zip(one[suite]["cases"], two[suite]["cases"], strict=True):
            assert mine["prompt"] == theirs["prompt"]
            assert mine["scores"].keys() == theirs["scores"].keys()
            for name, score in mine["scores"].items():
                expected = theirs["scores"][name]
                assert score is expected or score == pytest.approx(expected, rel=1e-3, nan_ok=True), name
