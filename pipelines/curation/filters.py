"""Filters as pure functions of stored scores: which rule a clip breaks, by how much, and how to let it in."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from pipelines.curation.records import Kind, Rejection
from skyreels.config import Config

Score = float | int | str | bool | None


class Rule(Config):
    """One condition on one score. A clip breaks it when the score is out of bounds.

    `kinds`, `when` and `where_above` say whom it is for: `when: {audio.class: [speech, singing]}` applies it only to
    clips whose score has one of those values, `where_above: {sync.confidence: 1.5}` only where that score is higher.
    A score that was not measured passes, unless `missing: reject`.
    """

    score: str
    group: Literal["basic", "content", "motion", "audio", "sync", "text"] = "basic"
    min: float | None = None
    max: float | None = None
    max_abs: float | None = None
    one_of: tuple[Score, ...] | None = None
    kinds: tuple[Kind, ...] = (Kind.VIDEO, Kind.IMAGE, Kind.AUDIO)
    when: dict[str, tuple[Score, ...]] = Field(default_factory=dict)
    where_above: dict[str, float] = Field(default_factory=dict)
    missing: Literal["pass", "reject"] = "pass"

    @model_validator(mode="after")
    def _has_a_bound(self) -> "Rule":
        if self.min is None and self.max is None and self.max_abs is None and self.one_of is None:
            raise ValueError(f"the rule on '{self.score}' has no bound: give min, max, max_abs or one_of")
        return self

    def applies(self, kind: Kind, scores: Mapping[str, Score]) -> bool:
        return (
            kind in self.kinds
            and all(scores.get(name) in values for name, values in self.when.items())
            and all(_above(scores.get(name), bound) for name, bound in self.where_above.items())
        )

    def broken_by(self, scores: Mapping[str, Score]) -> str | None:
        """In words what is wrong with these scores, or None."""
        value = scores.get(self.score)
        if value is None:
            return "was not measured" if self.missing == "reject" else None
        if self.one_of is not None and value not in self.one_of:
            return f"= {value}, wanted one of {', '.join(map(str, self.one_of))}"
        if isinstance(value, str):
            return None
        if self.min is not None and value < self.min:
            return f"= {value:.4g} < {self.min:g}"
        if self.max is not None and value > self.max:
            return f"= {value:.4g} > {self.max:g}"
        if self.max_abs is not None and abs(value) > self.max_abs:
            return f"= {value:.4g}, |.| > {self.max_abs:g}"
        return None


def _above(value: Score, bound: float) -> bool:
    return isinstance(value, int | float) and value > bound


def first_broken(
    rules: Mapping[str, Rule | None], kind: Kind, scores: Mapping[str, Any], *, stage: str = "filter"
) -> Rejection | None:
    """The first rule that these scores break, as a rejection."""
    for name, rule in rules.items():
        if rule is None:
            continue
        if rule.applies(kind, scores) and (why := rule.broken_by(scores)) is not None:
            return Rejection(
                stage=stage,
                reason=f"{rule.group}:{rule.score}",
                detail=f"{rule.score} {why}",
                remedy=_remedy(name, rule, stage),
            )
    return None


def _remedy(name: str, rule: Rule, stage: str) -> str:
    """How to let the clip in. What is turned away before the cut has no files that a refilter could take."""
    if stage == "filter":
        bound = next(bound for bound in ("min", "max", "max_abs", "one_of") if getattr(rule, bound) is not None)
        settings = f"filters.{name}.{bound}=… or filters.{name}=null"
        return (
            f"change this rule in the recipe, or give {settings} to `jobs/curate.py refilter`; nothing is decoded again"
        )
    return f"change the rule extract.{stage}.{name} and run the same command with --input; this makes a new pool"
