"""Do raters agree? Krippendorff's alpha (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability")."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from pipelines.evaluation.people.records import Comparison, Likert

Level = Literal["nominal", "ordinal", "interval"]
_VERDICTS = {"bad": -1.0, "same": 0.0, "good": 1.0}


def agreement(records: Sequence[Likert | Comparison]) -> float | None:
    """Alpha over what several raters rated: points as ordinal, verdicts (seen from one model) as ordinal too."""
    units: dict[tuple[str, ...], dict[str, float]] = {}
    for record in records:
        if isinstance(record, Likert):
            unit: tuple[str, ...] = (record.item, record.dimension, record.model)
            value = float(record.points)
        else:
            pair = sorted((record.first, record.second))
            unit, value = (record.item, record.dimension, *pair), _VERDICTS[record.seen_from(pair[0])]
        units.setdefault(unit, {})[record.rater] = value
    return krippendorff_alpha(list(units.values()), "ordinal")


def krippendorff_alpha(units: Sequence[Mapping[str, float]], level: Level) -> float | None:
    """1 - observed / expected disagreement. `units` map raters to values; None where nothing was rated twice or varies.

    1 is perfect agreement, 0 is chance, below 0 is worse.
    """
    paired = [list(unit.values()) for unit in units if len(unit) > 1]
    values = sorted({value for unit in paired for value in unit})
    if len(values) < 2:
        return None
    together = np.zeros((len(values), len(values)))
    for unit in paired:
        counts = np.array([unit.count(value) for value in values], float)
        together += (np.outer(counts, counts) - np.diag(counts)) / (len(unit) - 1)
    totals = together.sum(1)
    apart = _distances(np.array(values), totals, level)
    expected = (np.outer(totals, totals) * apart).sum() / (totals.sum() - 1)
    return float(1 - (together * apart).sum() / expected)


def _distances(values: np.ndarray, totals: np.ndarray, level: Level) -> np.ndarray:
    if level == "nominal":
        return (values[:, None] != values[None]).astype(float)
    if level == "interval":
        return (values[:, None] - values[None]) ** 2
    places = np.cumsum(totals) - totals / 2  # what lies between two ranks, half of each included
    return (places[:, None] - places[None]) ** 2
