"""Fades and dissolves: the mixture test on pictures made by hand, and rendered films with known spans."""

import numpy as np
import pytest

from pipelines.curation.visual.transitions import blend


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(20, 230, (18, 32, 3)).astype(np.float32)


@pytest.mark.parametrize("part", [0.25, 0.5, 0.75])
def test_a_mixture_of_unrelated_pictures_is_recognised_with_its_weight(part):
    first, second = picture(1), picture(2)
    found = blend(first, (1 - part) * first + part * second, second)
    assert found.mixture > 0.85  # a tenth of the pixels is alike in both by chance
    assert found.weight == pytest.approx(part, abs=0.02)
    assert abs(found.likeness) < 0.2


def test_movement_is_no_mixture():
    base = picture(3)
    panned = [np.roll(base, shift, axis=1) for shift in (0, 2, 4)]
    assert blend(*panned).mixture < 0.3
    still = np.full((18, 32, 3), 90, np.float32)
    passing = [still.copy() for _ in range(3)]
    for n, frame in enumerate(passing):
        frame[4:12, 4 + 8 * n : 12 + 8 * n] = 220
    found = blend(*passing)
    assert found.mixture * (0.2 < found.weight < 0.8) < 0.1


def test_a_change_of_light_keeps_its_likeness():
    base = picture(4)
    assert blend(base, base * 0.8, base * 0.6).likeness > 0.99


@pytest.mark.parametrize("kind", ["fade", "dissolve"])
def test_gradual_transitions_of_a_film_are_found_with_their_spans(analyse, shot_films, kind):
    path, truth = shot_films[kind]
    timeline = analyse(path)
    wanted = [(cut["first_frame"] / 24, cut["end_frame"] / 24) for cut in truth]
    found = [(t.start_s, t.end_s) for t in timeline.transitions]
    hits = sum(any(min(b, d) - max(a, c) > 0.5 * (max(b, d) - min(a, c)) for c, d in found) for a, b in wanted)
    assert len(wanted) == 4
    assert 2 * hits / (len(found) + len(wanted)) >= 0.8
    assert {t.kind for t in timeline.transitions} == {kind}
    assert timeline.cuts == []


def test_a_film_of_hard_cuts_has_no_gradual_ones(analyse, shot_films):
    assert analyse(shot_films["cut"][0]).transitions == []
