"""Strengths from comparisons: Bradley & Terry 1952 with ties as half a win each, by Hunter's MM iteration (2004)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.evaluation.people.records import Comparison

ELO_SCALE = 400 / np.log(10)  # so that 400 points are odds of ten to one
MIDDLE = 1000.0
RESAMPLES = 500
_PRIOR = 0.1  # of a tie between every pair that was compared: nobody's strength is infinite


@dataclass(frozen=True)
class Standing:
    """A model's points (1000 on the average) with their 95 % interval, and its wins, ties and losses."""

    model: str
    points: float
    low: float
    high: float
    good: int
    same: int
    bad: int


def rank(records: Sequence[Comparison], seed: int = 0) -> list[Standing]:
    """Models by strength. Intervals resample items whole: votes on one prompt are not independent.

    Raises ValueError where two groups of models were never compared: nothing then says how they stand to each other.
    """
    models = sorted({model for record in records for model in (record.first, record.second)})
    if len(models) < 2:
        raise ValueError("a ranking needs comparisons of at least two models")
    items = sorted({record.item for record in records})
    wins = np.zeros((len(items), len(models), len(models)))
    for record in records:
        first, second = models.index(record.first), models.index(record.second)
        share = {"good": 1.0, "same": 0.5, "bad": 0.0}[record.verdict]
        wins[items.index(record.item), first, second] += share
        wins[items.index(record.item), second, first] += 1 - share
    played = wins.sum(0) + wins.sum(0).T > 0
    _check_connected(played, models)
    points = _points(wins.sum(0), played)
    rng = np.random.default_rng(seed)
    drawn = [_points(wins[rng.integers(len(items), size=len(items))].sum(0), played) for _ in range(RESAMPLES)]
    low, high = np.percentile(drawn, (2.5, 97.5), axis=0)
    standings = [
        Standing(model, float(points[k]), float(low[k]), float(high[k]), *_tally(records, model))
        for k, model in enumerate(models)
    ]
    return sorted(standings, key=lambda standing: -standing.points)


def strengths(wins: np.ndarray, tolerance: float = 1e-9, most: int = 10_000) -> np.ndarray:
    """log strengths (M,), zero on the average, of wins (M, M): row over column."""
    games, won = wins + wins.T, wins.sum(1)
    strength = np.ones(len(wins))
    for _ in range(most):
        shared = games / (strength[:, None] + strength[None, :])
        updated = won / shared.sum(1)
        updated /= np.exp(np.log(updated).mean())
        if np.abs(np.log(updated / strength)).max() < tolerance:
            break
        strength = updated
    return np.log(updated)


def _points(wins: np.ndarray, played: np.ndarray) -> np.ndarray:
    return MIDDLE + ELO_SCALE * strengths(wins + _PRIOR / 2 * played)


def _check_connected(played: np.ndarray, models: Sequence[str]) -> None:
    reached = {0}
    while more := {int(k) for j in reached for k in np.flatnonzero(played[j])} - reached:
        reached |= more
    apart = [model for k, model in enumerate(models) if k not in reached]
    if apart:
        raise ValueError(f"{', '.join(apart)} were never compared with {models[0]} or its opponents: add such pairs")


def _tally(records: Sequence[Comparison], model: str) -> tuple[int, int, int]:
    verdicts = [record.seen_from(model) for record in records if model in (record.first, record.second)]
    return verdicts.count("good"), verdicts.count("same"), verdicts.count("bad")
