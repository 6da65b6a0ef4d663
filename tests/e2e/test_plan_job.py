import xml.etree.ElementTree as ElementTree

import pytest

from jobs import plan
from pipelines.training.curriculum.recipe import STAGES


def test_the_whole_curriculum_prints_its_table_and_draws_it(tmp_path, capsys):
    plot = tmp_path / "plan.svg"
    assert plan.main(["--stage", "all", "--gpus", "512", "--gpu", "h200", "--plot", str(plot)]) == 0
    lines = capsys.readouterr().out.splitlines()
    stages = [name for name in STAGES if name != "codecs"]
    assert [line.split()[0] for line in lines[2:15]] == ["stage", *stages]
    assert lines[15].split()[0] == "all"
    assert ElementTree.parse(plot).getroot().tag.endswith("svg")


def test_settings_and_price_change_the_plan(capsys):
    def row(*words):
        assert plan.main(["--stage", "sft-2", "--gpus", "64", *words]) == 0
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("sft-2"))
        return [float(cell.replace(",", "")) for cell in line.split()[-4:-1]]

    days, hours, cost = row("--price", "2")
    assert hours == pytest.approx(days * 24 * 64, rel=0.01)
    assert cost == pytest.approx(2 * hours, rel=0.01)
    shorter = row("--price", "2", "seconds.max=5")
    assert shorter[1] < hours / 3


def test_what_cannot_fit_ends_with_1_and_says_what_would(capsys):
    assert plan.main(["--stage", "video-5", "--gpus", "8", "--gpu", "h100"]) == 1
    error = capsys.readouterr().err
    assert "68.5 GiB can be filled. What would make it fit:\n  deepspeed=zero3-offload\n  workers=16\n" in error


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--stage", "video-9"], "did you mean 'video-"),
        (["--gpu", "tpu"], "no config 'tpu'"),
        (["--gpus", "12"], "full nodes of 8"),
        (["tokens_per_slott=4"], "did you mean 'tokens_per_slot'"),
        (["--stage", "video-1", "--clips", "5"], "no steps: give steps, or data"),
    ],
)
def test_wrong_arguments_are_named(words, told, capsys):
    assert plan.main(words) == 1
    assert told in capsys.readouterr().err
