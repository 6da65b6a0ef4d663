"""A clip planned before there is a model, and the numbers of the headline clip."""

import itertools

import pytest

from jobs import generate
from model.config import load_preset
from model.inspect import clip_of, two_stage_flops
from pipelines.generation.costs.plan import plan_clip
from pipelines.training.cost import cluster_of

HEADLINE = ["--preset", "v4", "--size", "1920x1088", "--seconds", "15", "--fps", "32", "--refine", "--dry-run"]


@pytest.fixture(scope="module")
def headline():
    preset = load_preset("v4")
    return preset, clip_of(preset, 15, 1088, 1920, 32)


def test_the_headline_clip_says_on_how_many_gpus_it_runs(capsys):
    assert generate.main([*HEADLINE, "--gpu", "h200"]) == 0
    said = capsys.readouterr().out
    assert "15.03 s of 1920x1088 at 32 fps, with sound, refined from 960x544 at 16 fps" in said
    assert "runs on 2 h200 in " in said
    assert generate.main([*HEADLINE, "--gpu", "h100", "--seconds", "600"]) == 1
    assert "does not fit on 8 h100" in capsys.readouterr().out


def test_operations_are_those_of_both_stages(headline):
    preset, clip = headline
    base, refiner = plan_clip(preset, clip, cluster_of("h200", 8), refine=True)[0].stages
    expected = two_stage_flops(preset, clip)
    assert base.operations == expected["low resolution and keyframes"]
    assert refiner.operations == expected["refiner"]


def test_more_devices_take_less_of_each_and_less_time(headline):
    plans = plan_clip(*headline, cluster_of("h200", 8), refine=True)
    assert [plan.ranks for plan in plans] == [1, 2, 4, 8]
    assert [plan.fits for plan in plans] == [False, True, True, True]
    seconds = [sum(plan.seconds) for plan in plans]
    assert all(1.7 < slow / fast < 2.1 for slow, fast in itertools.pairwise(seconds))
    assert [plan.way for plan in plans] == ["stream", "offload", "resident", "resident"]


def test_a_larger_clip_is_refined_in_tiles_that_need_no_more(headline):
    preset, clip = headline
    large = clip_of(preset, 15, 2176, 3840, 32)
    whole, tiled = (plan_clip(preset, each, cluster_of("h200", 8), refine=True)[-1].stages[1] for each in (clip, large))
    assert tiled.work == whole.work
    assert tiled.calls == 9 * whole.calls  # an eighth is shared: three tiles a side


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (["--dry-run"], "--preset must be given with --dry-run"),
        (["--prompt", "a ball"], "--model, --output must be given without --dry-run"),
        (["--model", "m", "--output", "x.mp4"], "one of --prompt, --structured and --shots"),
    ],
)
def test_what_is_missing_is_named(words, missing, capsys):
    with pytest.raises(SystemExit) as left:
        generate.main(words)
    assert left.value.code == 2
    assert missing in capsys.readouterr().err
