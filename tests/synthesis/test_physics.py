import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.synthesis.film import Motion, Scene, Subject
from pipelines.synthesis.physics import REBOUND_SECONDS, solve


def ball(name, start, velocity, size=0.1):
    return Subject(name, "circle", "red", size=size, motion=Motion("bouncing", start, velocity))


def test_a_dropped_ball_lands_when_galileo_says():
    scene = Scene((ball("a", (0.5, 0.3), (0.0, 0.0)),), gravity=4.0, floor=0.9)
    first = solve(scene, 1.0, 2.0).impacts[0]
    assert first.time == pytest.approx(math.sqrt(2 * (0.9 - 0.1 - 0.3) / 4.0), abs=1e-12)
    assert (first.other, first.normal) == ("floor", (0.0, 1.0))


def test_rebounds_are_irregular_and_within_their_range():
    scene = Scene((ball("a", (0.5, 0.5), (0.0, 0.0)),), seed=3)
    times = [hit.time for hit in solve(scene, 1.0, 8.0).impacts]
    gaps = np.diff(times)
    assert len(gaps) >= 8
    assert np.std(gaps) > 0.05
    assert gaps.min() >= REBOUND_SECONDS[0] - 1e-9


def test_impacts_agree_with_small_time_steps():
    """The slow way: step 20 microseconds at a time, reflect at the side walls, no floor within reach."""
    scene = Scene((ball("a", (0.3, 0.3), (1.1, 0.0)), ball("b", (0.7, 0.3), (-0.4, 0.0), 0.15)), gravity=0.0)
    exact = solve(scene, 1.0, 1.5).impacts
    x, v = np.array([0.3, 0.7]), np.array([1.1, -0.4])
    mass, size = np.array([0.01, 0.0225]), np.array([0.1, 0.15])
    stepped, dt = [], 2e-5
    for step in range(int(1.5 / dt)):
        x = x + v * dt
        for k in range(2):
            if (x[k] < size[k] and v[k] < 0) or (x[k] > 1 - size[k] and v[k] > 0):
                v[k] = -v[k]
                stepped.append(step * dt)
        if x[1] - x[0] < size.sum() and v[0] > v[1]:
            mean = (mass @ v) / mass.sum()
            v = 2 * mean - v
            stepped.append(step * dt)
    assert len(exact) == len(stepped) >= 3
    assert [hit.time for hit in exact] == pytest.approx(stepped, abs=1e-3)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    speeds=st.lists(st.floats(-0.8, 0.8), min_size=2, max_size=4),
    gravity=st.sampled_from([0.0, 2.0, 5.0]),
)
def test_nothing_leaves_the_room_or_enters_another(seed, speeds, gravity):
    cast = tuple(
        ball(str(k), (0.2 + 0.4 * k, 0.2 + 0.1 * (k % 2)), (speed, 0.1 * k), 0.06 + 0.02 * k)
        for k, speed in enumerate(speeds)
    )
    aspect = 0.4 * len(cast) + 0.1
    world = solve(Scene(cast, gravity=gravity, floor=0.95, seed=seed), aspect, 3.0)
    for time in np.linspace(0, 3, 241):
        places = np.array([world.position(k, time) for k in range(len(cast))])
        sizes = np.array([subject.size for subject in cast])
        assert (places[:, 0] >= sizes - 1e-6).all()
        assert (places[:, 0] <= aspect - sizes + 1e-6).all()
        assert (places[:, 1] <= 0.95 - sizes + 1e-6).all()
        for i in range(len(cast)):
            for j in range(i):
                assert np.hypot(*(places[i] - places[j])) >= sizes[i] + sizes[j] - 1e-6


def test_collisions_keep_momentum_and_energy():
    cast = (ball("a", (0.2, 0.5), (0.9, 0.1), 0.08), ball("b", (0.8, 0.53), (-0.5, 0.0), 0.12))
    world = solve(Scene(cast, gravity=0.0), 1.0, 2.0)
    hit = next(hit for hit in world.impacts if isinstance(hit.other, int))
    mass = np.array([s.size**2 for s in cast])[:, None]

    def velocities(time):
        return np.array([(np.subtract(world.position(k, time + 1e-6), world.position(k, time))) / 1e-6 for k in (0, 1)])

    before, after = velocities(hit.time - 1e-5), velocities(hit.time + 1e-5)
    assert (mass * before).sum(axis=0) == pytest.approx((mass * after).sum(axis=0), abs=1e-6)
    assert (mass * before**2).sum() == pytest.approx((mass * after**2).sum(), rel=1e-6)
    assert np.abs(before - after).max() > 0.1


@pytest.mark.parametrize(
    ("motion", "expected"),
    [
        (Motion("still", (0.4, 0.5), (1.0, 1.0)), (0.4, 0.5)),
        (Motion("linear", (0.1, 0.5), (0.2, -0.1)), (0.3, 0.4)),
        (Motion("circular", (0.5, 0.5), radius=0.2, period=4.0), (0.5, 0.7)),
        (Motion("zigzag", (0.1, 0.5), (0.2, 0.0), radius=0.1, period=2.0), (0.3, 0.4)),
    ],
)
def test_fixed_paths_after_one_second(motion, expected):
    world = solve(Scene((Subject("a", "circle", "red", motion=motion),)), 1.0, 2.0)
    assert world.position(0, 1.0) == pytest.approx(expected)
    assert world.impacts == []
