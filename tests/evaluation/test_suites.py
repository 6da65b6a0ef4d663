"""The judge is judged: every suite on its own truth. Its spoiled clips are judged in `test_evaluate_job.py`."""

import numpy as np
import pytest

from pipelines.evaluation.clips import Clip
from pipelines.evaluation.controls import run_controls
from pipelines.evaluation.evaluate import USUAL, Contender, suites_named
from pipelines.evaluation.films import DEVELOPMENT_SEED, EVALUATION_SEED, SEEDS_PER_SUITE, Format, examples
from pipelines.evaluation.metrics import METRICS, Case
from pipelines.evaluation.run import run_suite
from pipelines.evaluation.suites import SUITES, Suite, _t2v
from pipelines.evaluation.summary import wilson
from pipelines.synthesis.sampler import is_held_out

SMALL = Format(17, 16.0, 32, 32)


@pytest.mark.parametrize("name", SUITES)
def test_truth_reaches_every_target(name):
    contender = Contender.truth()
    result = run_suite(SUITES[name], contender.answer, contender.form, 10, controlled=False)
    assert result.failed == 0
    assert all(held is not None and held.met for held in result.held.values())


def test_every_metric_has_an_input_that_its_suites_give_and_targets_are_measured():
    assert set(METRICS) == {name for suite in SUITES.values() for name in suite.metrics}
    for suite in SUITES.values():
        assert {target.metric for target in suite.targets} <= set(suite.metrics)


def test_seeds_of_suites_never_meet_those_of_development_or_training():
    starts = sorted(suite.seed for suite in SUITES.values())
    assert len(set(starts)) == len(starts)
    assert min(np.diff(starts)) >= SEEDS_PER_SUITE
    assert starts[0] == EVALUATION_SEED > DEVELOPMENT_SEED + len(starts) * SEEDS_PER_SUITE


def test_films_are_of_combinations_that_training_never_saw_and_the_same_every_time():
    first, again = (list(examples(EVALUATION_SEED, 5, SMALL)) for _ in range(2))
    assert all(is_held_out(film.truth.shape, film.truth.colour) for film in first)
    assert all(np.array_equal(a.clip.frames, b.clip.frames) for a, b in zip(first, again, strict=True))


def test_a_metric_without_its_inputs_says_which_it_lacks():
    (film,) = examples(DEVELOPMENT_SEED, 1, SMALL)
    silent = Case(Clip(film.clip.frames, 16.0), film.truth)
    with pytest.raises(ValueError, match="sound reads audio"):
        METRICS["sound"].of(silent)


def test_a_clip_that_cannot_be_made_is_a_row_and_the_rest_is_judged():
    def answer(suite, ask, seed):
        if seed % 2:
            raise ValueError("the picture holds NaN")
        return ask.right

    result = run_suite(SUITES["t2v"], answer, USUAL, 6)
    assert result.failed == 3
    assert result.scores["colour"].value == 0.5
    assert [case.get("error") for case in result.cases if "error" in case] == ["ValueError: the picture holds NaN"] * 3


def test_draws_of_noise_are_clips_of_one_film_and_no_more_films():
    """One of three draws is right: each film is a third right, and the interval is that of six films."""
    asked = []

    def answer(suite, ask, seed):
        asked.append(seed)
        if len(asked) % 3 != 2:
            raise ValueError("no")
        return ask.right

    told = run_suite(SUITES["t2v"], answer, USUAL, 6, noise_seed=4, draws=3)
    assert told.scores["colour"].value == pytest.approx(1 / 3)
    assert (told.scores["colour"].low, told.scores["colour"].high) == wilson(2.0, 6)
    assert [score.count for name, score in told.scores.items() if METRICS[name].kind == "share"] == [6] * 6
    assert told.failed == 12
    assert told.draws == 3

    alone = [run_suite(SUITES["t2v"], answer, USUAL, 6, noise_seed=seed, controlled=False) for seed in (4, 5, 6)]
    by_draw = [[case["seed"] for case in result.cases] for result in alone]
    assert asked[:18] == [seed for of_film in zip(*by_draw, strict=True) for seed in of_film]
    assert [case["prompt"] for case in told.cases[::3]] == [case["prompt"] for case in alone[0].cases]


def test_a_judge_that_says_yes_to_everything_is_found_out(monkeypatch):
    import dataclasses

    blind = dataclasses.replace(METRICS["colour"], score=lambda case: 1.0)
    monkeypatch.setitem(METRICS, "colour", blind)
    asks = [_t2v(film, SMALL) for film in examples(DEVELOPMENT_SEED, 12, SMALL)]
    results = run_controls([ask.case(ask.right) for ask in asks], ("colour",))
    assert {control.control: control.passed for control in results} == {
        "truth": True,
        "shuffled": False,
        "noise": False,
    }


def test_unknown_suites_are_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"there is no suite dance.*t2av"):
        suites_named("t2v,dance")
    assert [suite.name for suite in suites_named("v2a,t2v")] == ["v2a", "t2v"]


def test_a_suite_that_asks_of_bounces_alone_gets_bounces():
    assert isinstance(SUITES["v2a"], Suite)
    assert {film.truth.motion for film in examples(EVALUATION_SEED, 5, SMALL, SUITES["v2a"].motion)} == {"bounces"}
