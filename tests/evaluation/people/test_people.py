"""Records in and out, rankings from simulated votes, and agreement against published figures."""

import json

import numpy as np
import pytest

from pipelines.evaluation.people.agreement import agreement, krippendorff_alpha
from pipelines.evaluation.people.ranking import ELO_SCALE, rank, strengths
from pipelines.evaluation.people.records import (
    Comparison,
    Likert,
    RecordError,
    attentive,
    dimensions,
    read_records,
    shown_order,
    write_records,
)


def comparison(first, second, verdict, rater="r1", item="p1", **more):
    return Comparison(rater=rater, item=item, dimension="overall", first=first, second=second, verdict=verdict, **more)


def test_the_rubric_has_the_sub_dimensions_of_skyreels_vabench():
    told = dimensions()
    assert sum("/" in name for name in told) == 26
    assert {"overall", "audio-visual sync", "audio-visual sync/lip sync", "motion quality/vividness"} <= told


def test_records_come_back_as_they_were_written(tmp_path):
    records = [
        comparison("a", "b", "same"),
        Likert(rater="r", item="p", dimension="visual quality/clarity", model="a", points=4, expected=5),
    ]
    write_records(tmp_path / "votes.jsonl", records)
    assert read_records(tmp_path / "votes.jsonl") == records


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"verdict": "better"}, "line 2, gsb.verdict"),
        ({"dimension": "sparkle"}, "line 2, dimension"),
        ({"kind": "vote"}, "line 2"),
        ({"points": 3}, "line 2, gsb.points"),
        ({"rater": ""}, "line 2, gsb.rater"),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path, change, named):
    good = comparison("a", "b", "good").model_dump(exclude_none=True)
    (tmp_path / "votes.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(good | change) + "\n")
    with pytest.raises(RecordError, match=named):
        read_records(tmp_path / "votes.jsonl")


def test_each_pair_is_seen_both_ways_round():
    for item in map(str, range(20)):
        seen = {shown_order(rater, item, ("x", "y")) for rater in range(2)}
        assert seen == {("x", "y"), ("y", "x")}
    first = [shown_order(0, str(item), ("x", "y"))[0] for item in range(200)]
    assert 70 < first.count("x") < 130


def test_raters_who_fail_their_checks_do_not_count():
    records = [
        comparison("a", "b", "good", rater="awake", expected="good"),
        comparison("a", "b", "bad", rater="asleep", expected="good"),
        comparison("a", "b", "same", rater="awake"),
        comparison("a", "b", "same", rater="asleep"),
        comparison("a", "b", "same", rater="unchecked"),
    ]
    assert [record.rater for record in attentive(records)] == ["awake", "unchecked"]


def votes(points, count, seed=0):
    """Simulated: good by Bradley-Terry odds."""
    rng, models, records = np.random.default_rng(seed), list(points), []
    for number in range(count):
        first, second = rng.permutation(models)[:2]
        odds = 1 / (1 + np.exp((points[second] - points[first]) / ELO_SCALE))
        verdict = "good" if rng.random() < odds else "bad"
        records.append(comparison(str(first), str(second), verdict, item=f"p{number % 150}"))
    return records


def test_strengths_come_back_from_simulated_votes_within_their_intervals():
    true = {"weak": 850.0, "middle": 1000.0, "strong": 1150.0}
    held = 0
    for seed in range(4):
        standings = rank(votes(true, 1200, seed), seed)
        assert [standing.model for standing in standings] == ["strong", "middle", "weak"]
        held += sum(standing.low <= true[standing.model] <= standing.high for standing in standings)
        assert all(standing.high - standing.low < 80 for standing in standings)
    assert held >= 9  # of 12, where 95 % would be 11.4


def test_two_models_stand_apart_by_the_log_of_their_odds():
    apart = np.diff(strengths(np.array([[0.0, 30.0], [10.0, 0.0]])))[0]
    assert apart == pytest.approx(-np.log(3))


def test_first_places_and_sides_do_not_matter():
    records = votes({"a": 900.0, "b": 1100.0}, 100)
    turned = [comparison(r.second, r.first, r.seen_from(r.second), item=r.item) for r in records]
    assert rank(records) == rank(turned)


def test_groups_that_were_never_compared_are_named():
    with pytest.raises(ValueError, match="c, d were never compared with a"):
        rank([comparison("a", "b", "good"), comparison("c", "d", "good")])


KRIPPENDORFF = [  # units x observers of Krippendorff 2011, part C; None: missing
    (1, 1, None, 1), (2, 2, 3, 2), (3, 3, 3, 3), (3, 3, 3, 3), (2, 2, 2, 2), (1, 2, 3, 4), (4, 4, 4, 4), (1, 1, 2, 1),
    (2, 2, 2, 2), (None, 5, 5, 5), (None, None, 1, 1), (None, None, 3, None),
]  # fmt: skip


@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_is_the_published_one(level, published):
    units = [{str(k): float(v) for k, v in enumerate(row) if v is not None} for row in KRIPPENDORFF]
    assert krippendorff_alpha(units, level) == pytest.approx(published, abs=0.0006)


def test_agreement_of_raters_who_see_a_pair_from_both_sides():
    same = [comparison("a", "b", "good", "r1"), comparison("b", "a", "bad", "r2"),
            comparison("a", "b", "bad", "r1", "p2"), comparison("b", "a", "good", "r2", "p2")]  # fmt: skip
    assert agreement(same) == 1.0
    assert agreement(same[:1]) is None
