"""Parts of a model are switched off around it: what they are worth is what a suite loses."""

import json
import re
from dataclasses import replace

import pytest
import torch

from jobs import evaluate
from model.conditioning import ImageReference
from model.generator import Generator
from model.network.inputs import JointInputs
from model.network.mmdit import predict
from pipelines.evaluation.ablations import ABLATIONS, LEAST_COST, Cost, costs, without
from pipelines.evaluation.metrics import METRICS
from pipelines.evaluation.report.table import cost_rows
from pipelines.evaluation.run import SuiteResult
from pipelines.evaluation.suites import SUITES
from pipelines.evaluation.summary import Score


@pytest.fixture(scope="module")
def parts(random_model):
    return Generator.from_pretrained(random_model).components


def inputs(**changes):
    torch.manual_seed(1)
    given = JointInputs(
        text=torch.randn(1, 3, 16),
        timesteps=torch.full((1, 2), 0.3),
        video=torch.randn(1, 9, 2, 4, 4),
        audio=torch.randn(1, 4, 12),
        audio_time_scale=0.2,
        video_references=[torch.randn(1, 4, 1, 4, 4)],
    )
    return replace(given, **changes)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("cross_modal", {"cross_modal": False}),
        ("rope_scaling", {"audio_time_scale": 1.0}),
        ("references", {"video_references": ()}),
        ("reference_latents", {"video_references": ()}),
    ],
)
def test_a_network_without_a_part_computes_what_inputs_without_it_make(parts, name, changes):
    """Also where what no step changes was computed before; and whole again afterwards."""
    network = parts.transformer
    whole, expected = predict(network, inputs()), predict(network, inputs(**changes))
    with without(parts, name):
        parted = predict(network, inputs())
        cached = predict(network, inputs(), network.cache(inputs()))
    assert torch.equal(parted.audio, expected.audio)
    torch.testing.assert_close(cached.video, expected.video)
    assert not torch.allclose(parted.audio, whole.audio)
    assert torch.equal(predict(network, inputs()).audio, whole.audio)


@pytest.mark.parametrize(("name", "seen"), [("references", False), ("reference_latents", True), ("cross_modal", True)])
def test_without_references_the_encoder_reads_the_words_alone(parts, name, seen):
    """Or what it saw would tell of them still."""
    words, reference = "A circle like @image_1", ImageReference("@image_1", [torch.rand(3, 32, 32)])
    whole, unseen = parts.encoder.encode(words, [reference])[0], parts.encoder.encode(words)[0]
    assert len(whole) > len(unseen)
    with without(parts, name):
        read = parts.encoder.encode(words, [reference])[0]
    assert torch.equal(read, whole if seen else unseen)
    assert torch.equal(parts.encoder.encode(words, [reference])[0], whole)


def test_a_model_is_whole_again_after_an_error(parts):
    with pytest.raises(RuntimeError, match="stop"), without(parts, "references"):
        raise RuntimeError("stop")
    assert not {"forward", "cache"} & set(vars(parts.transformer))
    assert "encode" not in vars(parts.encoder)


def result(values, suite="v2a", metric="event_f1", part=None):
    cases = [{"scores": {metric: value}} if value is not None else {"error": "no"} for value in values]
    return SuiteResult(suite, {}, {}, [], cases, 0.0, without=part)


def test_a_cost_is_of_the_clips_that_both_tell_of():
    whole, parted = result([1.0, 0.9, None, 0.8]), result([0.5, 0.7, 0.2, None], part="cross_modal")
    (cost,) = costs([whole, parted])
    assert cost.score.value == pytest.approx((0.5 + 0.2) / 2)
    assert cost.score.count == 2
    assert (cost.whole, cost.without) == (pytest.approx(0.95), pytest.approx(0.6))
    assert cost.bound == LEAST_COST
    assert cost.met
    assert costs([whole]) == []


def test_a_cost_over_draws_of_noise_is_of_as_many_films():
    """Or its interval would be that of films that were never asked."""
    whole, parted = (result(values, part=part) for values, part in (([1.0, 0.8, 0.6, None], None),
                                                                    ([0.5, 0.1, 0.2, 0.4], "cross_modal")))  # fmt: skip
    (cost,) = costs([replace(whole, draws=2), replace(parted, draws=2)])
    assert cost.score.count == 2
    assert cost.score.value == pytest.approx((0.6 + 0.3) / 2)
    assert (cost.score.low, cost.score.high) == (pytest.approx(0.3), pytest.approx(0.6))


def test_of_what_is_better_low_more_is_lost():
    scores = [{"offset": 50.0, "event_f1": 0.9}], [{"offset": 300.0, "event_f1": 0.8}]
    whole, parted = ([{"scores": score} for score in told] for told in scores)
    told = costs([SuiteResult("t2av", {}, {}, [], whole, 0.0),
                  SuiteResult("t2av", {}, {}, [], parted, 0.0, without="rope_scaling")])  # fmt: skip
    lost = {cost.metric: (cost.score.value, cost.met) for cost in told}
    assert lost == {"offset": (250, None), "event_f1": (pytest.approx(0.1), False)}


def test_ablations_name_suites_and_metrics_that_there_are():
    for ablation in ABLATIONS.values():
        for suite, metric in ablation.pairs:
            assert metric in SUITES[suite].metrics
        assert all(METRICS[metric].kind != "median" for _, metric in ablation.held)


def test_the_table_has_what_each_part_is_worth(random_model, tmp_path, capsys):
    words = ["--model", str(random_model), "--suite", "t2a", "--ablate", "references", "--n", "2", "--workers", "1"]
    assert evaluate.main([*words, "--output", str(tmp_path), "--no-tracking", "--quiet"]) == 0
    told = capsys.readouterr().out
    row = r"^image_reference without references +colour +model +-\S+ .* >= 0\.150 .* with it \S+, without \S+$"
    assert re.search(row, told, re.MULTILINE)
    figures = json.loads((tmp_path / "metrics.json").read_text())
    assert {cost["metric"] for cost in figures["ablations"]["model"]} == {"colour", "shape"}
    assert set(figures["models"]["model"]) == {"t2a", "image_reference"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--ablate", "eyes"], "no part eyes can be switched off: use all, or some of cross_modal"),
        (["--ablate", "references"], "truth has no parts and cannot do without references: leave --ablate out"),
    ],
)
def test_what_cannot_be_taken_apart_is_said(tmp_path, capsys, words, told):
    asked = ["--model", "truth", "--suite", "t2a", "--n", "2", "--workers", "1", "--output", str(tmp_path)]
    assert evaluate.main([*asked, *words, "--no-tracking", "--quiet"]) == 1
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(("cost", "told"), [(0.25, "-0.250"), (-0.033, "0.033")])
def test_what_a_part_costs_is_written_with_one_sign(cost, told):
    score = Score(value=cost, low=cost - 0.1, high=cost + 0.1, count=30)
    (row,) = cost_rows("tiny", [Cost("references", "image_reference", "shape", score, 0.7, 0.7 - cost, None)])
    assert row.value == told
