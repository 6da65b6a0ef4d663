"""From scores of clips to one figure with its interval."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.evaluation.metrics import Metric

Z95 = 1.959964
RESAMPLES = 1000


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


def wilson(successes: float, count: int, z: float = Z95) -> tuple[float, float]:
    """The interval of a share (Wilson 1927): within [0, 1] and of use at 0 and at 1 too."""
    if count <= 0:
        raise ValueError("an interval needs at least one sample")
    if not 0 <= successes <= count:
        raise ValueError(f"{successes} of {count} is no share")
    share, extra = successes / count, z * z / count
    middle = (share + extra / 2) / (1 + extra)
    reach = z / (1 + extra) * math.sqrt(share * (1 - share) / count + extra / (4 * count))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def bootstrap(
    values: Sequence[float], statistic: Callable[..., np.ndarray] = np.mean, seed: int = 0
) -> tuple[float, float]:
    """The 95 % percentile interval of `statistic` (takes `axis`) over resampled values."""
    sample = np.asarray(values, np.float64)
    if not sample.size:
        raise ValueError("an interval needs at least one sample")
    drawn = np.random.default_rng(seed).integers(sample.size, size=(RESAMPLES, sample.size))
    low, high = np.percentile(statistic(sample[drawn], axis=1), (2.5, 97.5))
    return float(low), float(high)
