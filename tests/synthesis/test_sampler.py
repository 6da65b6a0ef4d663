from itertools import pairwise

import numpy as np
import pytest

from pipelines.synthesis.physics import solve
from pipelines.synthesis.sampler import is_held_out, sample_film, sample_impact_film
from pipelines.synthesis.voice import speak


def looks(film):
    return {(subject.shape, subject.colour) for shot in film.shots for subject in shot.scene.subjects}


def test_a_seed_is_a_film():
    assert sample_film(5, shots=2) == sample_film(5, shots=2)
    assert sample_film(5, shots=2) != sample_film(6, shots=2)


def test_held_out_combinations_never_train():
    trained = set().union(*(looks(sample_film(seed, split="train", shots=2)) for seed in range(60)))
    held_out = set().union(*(looks(sample_film(seed, split="held-out", subjects=1)) for seed in range(60)))
    assert not trained & held_out
    assert all(is_held_out(*look) for look in held_out)
    # Every shape and every colour of the held-out set is known from training: only the combination is new.
    assert {shape for shape, _ in held_out} <= {shape for shape, _ in trained}
    assert {colour for _, colour in held_out} <= {colour for _, colour in trained}


@pytest.mark.parametrize("shots", [1, 3])
def test_knobs_are_obeyed(shots):
    film = sample_film(1, size=(128, 72), fps=16, seconds=3.0, shots=shots, subjects=2, transition="fade")
    assert (film.size, film.fps, len(film.shots), film.frames) == ((128, 72), 16, shots, 48)
    assert all(len(shot.scene.subjects) == 2 for shot in film.shots)
    assert [shot.transition for shot in film.shots] == ["cut", "fade", "fade"][:shots]


@pytest.mark.parametrize("seed", range(6))
def test_impact_films_have_enough_separate_irregular_impacts(seed):
    film = sample_impact_film(seed)
    times = [hit.time for hit in solve(film.shots[0].scene, 1.0, film.shots[0].seconds).impacts]
    gaps = np.diff(times)
    assert len(times) >= 6
    assert gaps.min() > 0.15
    assert gaps.std() > 0.05
    assert film.seed == seed


def test_too_short_for_its_impacts_is_refused():
    with pytest.raises(ValueError, match="longer"):
        sample_impact_film(0, seconds=1.0)


@pytest.mark.parametrize("sound", ["speech", "singing"])
@pytest.mark.parametrize("seed", range(4))
def test_voices_fill_most_of_the_time_and_do_not_overlap(sound, seed):
    film = sample_film(seed, size=(64, 64), seconds=6.0, sound=sound)
    spans = [
        (line.start, line.start + speak(line, film.sample_rate).samples.size / film.sample_rate)
        for line in film.sound.lines
    ]
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert sum(min(end, 6.0) - start for start, end in spans) > 0.6 * 6.0
