"""How a subject moves: the kind of path that fits its places best, and when it hits the floor.

Every kind is linear in its unknowns once its times are chosen, so a fit is one product with a stored projection.
"""

import functools
from dataclasses import dataclass
from itertools import combinations

import numpy as np

GRAVITY = 4.0  # heights/s^2, that of `pipelines.synthesis.film.Scene`
PERIODS = np.linspace(0.8, 1.7, 19)  # seconds
TURNS = 0.02  # seconds between the times tried for hits
EARLIEST_HIT = 0.1  # seconds
LEAST_FLIGHT = 0.25  # seconds between two hits
MOST_HITS = 3
LEAST_REBOUND = 0.5  # heights/s that a hit gives upwards
LEAST_REACH = 0.08  # heights: what moves less rests
FEWER_UNKNOWNS = 0.004  # heights: a straight line is believed at a misfit that much larger
LARGEST_MISFIT = 0.04  # heights, root mean square: beyond it no kind fits


@dataclass(frozen=True)
class Path:
    """`kind`: right, left, up, down, circles, bounces, rests, or None where nothing fits. `hits` in seconds."""

    kind: str | None
    hits: tuple[float, ...] = ()


@dataclass(frozen=True)
class _Plan:
    """`pull` gives the unknowns of stacked places (2F,), `push` the places of unknowns, plus the `known` part."""

    push: np.ndarray
    pull: np.ndarray
    known: np.ndarray
    hits: tuple[float, ...] = ()


@dataclass(frozen=True)
class _Fit:
    """A plan with its unknowns; `misfit` is the root mean square distance in heights."""

    plan: _Plan
    unknowns: np.ndarray
    misfit: float

    @property
    def is_bounce(self) -> bool:
        """Whether each hit sends it up again."""
        return bool(self.plan.hits) and float(max(self.unknowns[4:])) <= -LEAST_REBOUND


def follow(centres: np.ndarray, fps: float, aspect: float = 1.0) -> Path:
    """The path of (F, 2) centres in fractions of width and height. Frames without a subject are bridged."""
    seen = np.isfinite(centres[:, 0])
    if seen.sum() < max(4, len(centres) // 2):
        return Path(None)
    frames = np.arange(len(centres))
    x, y = (np.interp(frames, frames[seen], centres[seen, axis]) for axis in (0, 1))
    x = x * aspect
    if max(np.ptp(x), np.ptp(y)) < LEAST_REACH:
        return Path("rests")
    places = np.concatenate([x, y])
    straight = _best(places, _lines(len(x), fps))
    circle = _best(places, _circles(len(x), fps))
    bounces = [fit for plan in _bounces(len(x), fps) if (fit := _fitted(places, plan)).is_bounce]
    bounce = min(bounces, key=_misfit, default=None)
    least = min(_misfit(fit) for fit in (straight, circle, bounce) if fit is not None)
    if least > LARGEST_MISFIT:
        return Path(None)
    if straight.misfit <= least + FEWER_UNKNOWNS:
        return Path(_direction(straight.unknowns))
    if bounce is None or circle.misfit <= bounce.misfit:
        return Path("circles")
    return Path("bounces", bounce.plan.hits)


def _best(places: np.ndarray, plans: list[_Plan]) -> _Fit:
    return min((_fitted(places, plan) for plan in plans), key=_misfit)


def _fitted(places: np.ndarray, plan: _Plan) -> _Fit:
    unknowns = plan.pull @ (places - plan.known)
    left = places - plan.known - plan.push @ unknowns
    return _Fit(plan, unknowns, float(np.sqrt(2 * np.mean(left**2))))


def _misfit(fit: _Fit) -> float:
    return fit.misfit


def _direction(unknowns: np.ndarray) -> str:
    _, across, _, down = unknowns
    if abs(across) >= abs(down):
        return "right" if across > 0 else "left"
    return "down" if down > 0 else "up"


def _plan(push: np.ndarray, known: np.ndarray | None = None, hits: tuple[float, ...] = ()) -> _Plan:
    return _Plan(push, np.linalg.pinv(push), np.zeros(len(push)) if known is None else known, hits)


@functools.lru_cache(maxsize=8)
def _lines(frames: int, fps: float) -> list[_Plan]:
    """Unknowns: x, its speed, y, its speed."""
    t = np.arange(frames) / fps
    return [_plan(_blocks(np.column_stack([np.ones(frames), t]), np.column_stack([np.ones(frames), t])))]


@functools.lru_cache(maxsize=8)
def _circles(frames: int, fps: float) -> list[_Plan]:
    """Unknowns: the middle, and where on the circle it starts; both ways round."""
    t, one, none = np.arange(frames) / fps, np.ones(frames), np.zeros(frames)
    plans = []
    for period in PERIODS:
        for way in (1, -1):
            cos, sin = np.cos(2 * np.pi * t / period), way * np.sin(2 * np.pi * t / period)
            x = np.column_stack([one, none, cos, -sin])
            y = np.column_stack([none, one, sin, cos])
            plans.append(_plan(np.concatenate([x, y])))
    return plans


@functools.lru_cache(maxsize=8)
def _bounces(frames: int, fps: float) -> list[_Plan]:
    """Unknowns: x and its speed (2), y, its speed, then by how much each hit changes it. Times of hits are tried."""
    t, one = np.arange(frames) / fps, np.ones(frames)
    times = np.arange(EARLIEST_HIT, t[-1] - 1.0 / fps, TURNS)
    chosen: list[tuple[float, ...]] = [(time,) for time in times]
    coarse = times[::2]
    for count in range(2, MOST_HITS + 1):
        chosen += [some for some in combinations(coarse, count) if np.diff(some).min() >= LEAST_FLIGHT]
    fall = np.concatenate([np.zeros(frames), 0.5 * GRAVITY * t**2])
    return [
        _plan(
            _blocks(
                np.column_stack([one, t]),
                np.column_stack([one, t, *(np.maximum(t - hit, 0.0) for hit in hits)]),
            ),
            fall,
            tuple(round(float(hit), 4) for hit in hits),
        )
        for hits in chosen
    ]


def _blocks(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """One plan for places stacked x over y, whose unknowns have nothing to do with each other."""
    plan = np.zeros((len(x) + len(y), x.shape[1] + y.shape[1]))
    plan[: len(x), : x.shape[1]] = x
    plan[len(x) :, x.shape[1] :] = y
    return plan
