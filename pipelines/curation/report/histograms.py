"""How each score is spread over the clips, where the recipe's thresholds lie in it, and how much lies beyond."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.types as types

from pipelines.curation.filters import Rule
from pipelines.curation.recipe import Recipe
from pipelines.curation.records import Kind

_BINS = (8, 32)  # fewest and most, by how many clips there are
_TAILS = (0.5, 99.5)  # percentiles that the axis spans; what lies outside is counted in the end bins


@dataclass(frozen=True)
class Threshold:
    """One bound of one rule. `share` of the `applies` clips that it is for and that have the score lie beyond it."""

    stage: str
    bound: str  # min, max
    value: float
    condition: str  # in words, whom the rule is for; empty: everyone
    applies: int
    beyond: int

    @property
    def share(self) -> float:
        return self.beyond / self.applies if self.applies else 0.0


@dataclass(frozen=True)
class Histogram:
    """Clips of one kind by one score. `edges` (B+1,), `kept` and `rejected` (B,) counts.

    Values outside the axis are in the end bins, `below` and `above` of them; `missing` clips have no finite value.
    """

    score: str
    kind: Kind
    edges: np.ndarray
    kept: np.ndarray
    rejected: np.ndarray
    below: int
    above: int
    missing: int
    thresholds: tuple[Threshold, ...]

    @property
    def measured(self) -> int:
        return int(self.kept.sum() + self.rejected.sum())


def score_histograms(clips: pa.Table, kept: np.ndarray, recipe: Recipe) -> list[Histogram]:
    """One per kind and numeric score with values: first the scores that rules name, in the rules' order.

    `kept` (N,) bool says which rows of `clips` are in the dataset.
    """
    rules = _rules(recipe)
    ruled = list(dict.fromkeys(rule.score for _, rule in rules))
    named = [name for name in ruled if name in clips.column_names]
    rest = sorted(name for name in clips.column_names if "." in name and name not in named)
    kinds = np.array(clips.column("kind").to_pylist(), dtype=object)
    return [
        histogram
        for kind in Kind
        for name in [*named, *rest]
        if _is_number(clips.schema.field(name).type)
        for histogram in _of_kind(clips, kinds == kind, kept, name, kind, rules)
    ]


def bin_scores(values: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Edges of bins of one round width over the values' central 99 %, stretched to show thresholds that are near.

    The first of the near thresholds lies on an edge, so that no bin mixes both of its sides. A threshold further away
    than the span itself would squeeze the values into a few bins; it stays outside.
    """
    low, high = (float(edge) for edge in np.percentile(values, _TAILS))
    reach = (high - low) or max(abs(high), 1.0)
    near = [bound for bound in thresholds if low - reach <= bound <= high + reach]
    low, high = min([low, *near]), max([high, *near])
    if high == low:  # one value: a thin bar in the middle
        low, high = low - reach / 2, high + reach / 2
    wanted = np.clip(2 * np.sqrt(len(values)), *_BINS)
    width = round_up((high - low) / wanted)
    anchor = near[0] if near else 0.0
    first, last = math.floor((low - anchor) / width + 1e-9), math.ceil((high - anchor) / width - 1e-9)
    first, last = first - (low in near), last + (high in near)  # a threshold needs a bin on either side
    return anchor + width * np.arange(first, last + 1)


def round_up(width: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(width))
    return next(step * power for step in (1.0, 2.0, 2.5, 5.0, 10.0) if step * power >= width * (1 - 1e-9))


def _of_kind(
    clips: pa.Table,
    of_kind: np.ndarray,
    kept: np.ndarray,
    name: str,
    kind: Kind,
    rules: Sequence[tuple[str, Rule]],
) -> Iterator[Histogram]:
    values = clips.column(name).to_numpy(zero_copy_only=False).astype(np.float64)
    there = of_kind & np.isfinite(values)
    if not there.any():
        return
    thresholds = tuple(
        threshold
        for stage, rule in rules
        if rule.score == name and kind in rule.kinds
        for threshold in _thresholds(stage, rule, values, there & _meets(clips, rule))
    )
    edges = bin_scores(values[there], [threshold.value for threshold in thresholds])
    inside = np.clip(values, edges[0], edges[-1])
    yield Histogram(
        score=name,
        kind=kind,
        edges=edges,
        kept=np.histogram(inside[there & kept], edges)[0],
        rejected=np.histogram(inside[there & ~kept], edges)[0],
        below=int((values[there] < edges[0]).sum()),
        above=int((values[there] > edges[-1]).sum()),
        missing=int((of_kind & ~np.isfinite(values)).sum()),
        thresholds=thresholds,
    )


def _thresholds(stage: str, rule: Rule, values: np.ndarray, applies: np.ndarray) -> Iterator[Threshold]:
    conditions = [f"{name}: {', '.join(map(str, wanted))}" for name, wanted in rule.when.items()]
    condition = "; ".join([*conditions, *(f"{name} > {bound:g}" for name, bound in rule.where_above.items())])
    bounds: list[tuple[str, float, np.ndarray]] = []
    if rule.min is not None:
        bounds.append(("min", rule.min, values < rule.min))
    if rule.max is not None:
        bounds.append(("max", rule.max, values > rule.max))
    if rule.max_abs is not None:
        bounds += [("min", -rule.max_abs, values < -rule.max_abs), ("max", rule.max_abs, values > rule.max_abs)]
    for bound, value, beyond in bounds:
        yield Threshold(stage, bound, value, condition, int(applies.sum()), int((applies & beyond).sum()))


def _meets(clips: pa.Table, rule: Rule) -> np.ndarray:
    """(N,) bool: the rows that the rule's conditions let it apply to."""
    names = [name for name in (*rule.when, *rule.where_above) if name in clips.column_names]
    rows = clips.select([*names, "kind"]).to_pylist()
    return np.array([rule.applies(Kind(row["kind"]), row) for row in rows], bool)


def _rules(recipe: Recipe) -> list[tuple[str, Rule]]:
    """Rules on the scores of clips, with the stage that applies them."""
    stages = {"gate": recipe.extract.gate, "filter": recipe.filters}
    return [(stage, rule) for stage, rules in stages.items() for rule in rules.values() if rule is not None]


def _is_number(kind: pa.DataType) -> bool:
    return bool(types.is_floating(kind) or types.is_integer(kind))
