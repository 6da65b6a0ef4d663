"""Filters are pure functions of scores; every bound, scope and message."""

import pytest

from pipelines.curation.filters import Rule, first_broken
from pipelines.curation.recipe import load_recipe
from pipelines.curation.records import Kind


@pytest.mark.parametrize(
    ("rule", "scores", "kept"),
    [
        ({"min": 1}, {"s": 1.0}, True),
        ({"min": 1}, {"s": 0.99}, False),
        ({"max": 1}, {"s": 1.01}, False),
        ({"max_abs": 3}, {"s": -3.0}, True),
        ({"max_abs": 3}, {"s": -3.5}, False),
        ({"one_of": ["a", "b"]}, {"s": "a"}, True),
        ({"one_of": ["a", "b"]}, {"s": "c"}, False),
        ({"min": 1}, {"s": None}, True),
        ({"min": 1}, {}, True),
        ({"min": 1, "missing": "reject"}, {}, False),
        ({"min": 1, "when": {"c": ["speech"]}}, {"s": 0, "c": "music"}, True),
        ({"min": 1, "when": {"c": ["speech"]}}, {"s": 0, "c": "speech"}, False),
        ({"min": 1, "kinds": ["image"]}, {"s": 0}, True),
        ({"max_abs": 3, "where_above": {"c": 1.5}}, {"s": 9, "c": 1.5}, True),
        ({"max_abs": 3, "where_above": {"c": 1.5}}, {"s": 9, "c": 1.6}, False),
        ({"max_abs": 3, "where_above": {"c": 1.5}}, {"s": 9, "c": None}, True),
    ],
)
def test_bounds(rule, scores, kept):
    assert (first_broken({"r": Rule(score="s", **rule), "off": None}, Kind.VIDEO, scores) is None) is kept


def test_the_rejection_names_rule_value_bound_and_remedy():
    rules = {"sharp": Rule(score="visual.sharpness", min=0.4, group="basic")}
    why = first_broken(rules, Kind.VIDEO, {"visual.sharpness": 0.25})
    assert (why.stage, why.reason, why.detail) == ("filter", "basic:visual.sharpness", "visual.sharpness = 0.25 < 0.4")
    assert "filters.sharp.min=… or filters.sharp=null to `jobs/curate.py refilter`" in why.remedy


def test_what_was_turned_away_before_the_cut_cannot_be_refiltered():
    """The remedies' settings are such that a recipe takes them."""
    why = first_broken({"sharp": Rule(score="s", min=0.4)}, Kind.VIDEO, {"s": 0.25}, stage="gate")
    assert "extract.gate.sharp" in why.remedy
    assert "refilter" not in why.remedy
    assert load_recipe("joint", ("filters.large-enough=null",)).filters["large-enough"] is None
    assert load_recipe("joint", ("filters.large-enough.min=240",)).filters["large-enough"].min == 240


def test_a_rule_without_a_bound_is_refused():
    with pytest.raises(ValueError, match="has no bound"):
        Rule(score="s")
