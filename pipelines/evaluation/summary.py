"""From scores of clips to one figure with its interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.evaluation.metrics import Metric
from pipelines.evaluation.statistics import bootstrap, wilson


@dataclass(frozen=True)
class Score:
    """`value` over `count` clips, and its 95 % interval from `low` to `high`."""

    value: float
    low: float
    high: float
    count: int


def summarise(metric: Metric, values: Sequence[float | None]) -> Score | None:
    """None where no clip bears on the metric."""
    told = [value for value in values if value is not None]
    if not told:
        return None
    if metric.kind == "share":
        return Score(float(np.mean(told)), *wilson(sum(told), len(told)), len(told))
    statistic = np.median if metric.kind == "median" else np.mean
    return Score(float(statistic(told)), *bootstrap(told, statistic), len(told))
