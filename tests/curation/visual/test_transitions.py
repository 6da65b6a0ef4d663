"""Fades and dissolves: the mixture test on pictures made by hand, and rendered films with known spans."""

from itertools import chain

import cv2
import numpy as np
import pytest

from pipelines.curation.visual.transitions import blend, superposition
from pipelines.synthesis import conditions
from pipelines.synthesis.sampler import sample_film
from pipelines.synthesis.studio import render
from skyreels.media.encode import write_video

FPS, SIZE = 12, (256, 144)


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


@pytest.mark.parametrize("weight", [0.3, 0.5, 0.7])
def test_superposed_pictures_lack_detail_and_moving_or_lit_ones_do_not(weight):
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 8, (2, 100, 100))
    mixed = (1 - weight) * first + weight * second
    detail = [float(np.mean(np.square(picture))) for picture in (first, mixed, second)]
    assert superposition(weight, *detail) == pytest.approx(1, abs=0.05)
    moved = float(np.mean(np.square(np.roll(first, 3))))
    assert superposition(weight, detail[0], moved, detail[0]) == pytest.approx(0, abs=1e-4)
    lit = [float(np.mean(np.square(gain * first))) for gain in (0.5, 0.5 + 0.5 * weight, 1.0)]
    assert superposition(weight, *lit) == pytest.approx(0, abs=1e-4)


def natural(kind: str, seed: int):
    """4 s of one shot, as a stream of frames, in which nothing is cut, faded or dissolved."""
    room = conditions.HOLDING_ROOM
    wide = (round(SIZE[0] * room / 2) * 2, round(SIZE[1] * room / 2) * 2)
    film = sample_film(700 + seed, size=wide, fps=FPS, seconds=4.0, camera="static", sound="impacts")
    hand = conditions.hold(render(film).frames(), SIZE, FPS, seed)
    sea = conditions.water(SIZE, FPS, film.frames, seed)
    return {
        "hand": lambda: hand,
        "flicker": lambda: conditions.flicker(hand, FPS, 0.12, seed),
        "lamp": lambda: conditions.flicker(render(film).frames(), FPS, 0.12, seed),
        "rain": lambda: conditions.rain(hand, seed),
        "water": lambda: conditions.adapt_exposure(sea, FPS),
        "hand over water": lambda: conditions.adapt_exposure(
            conditions.hold(conditions.water(wide, FPS, film.frames, seed), SIZE, FPS, seed), FPS, 0.6
        ),
        "cloud": lambda: conditions.adapt_exposure(hand, FPS, 0.5, at_s=1.5),
    }[kind]()


@pytest.mark.parametrize("kind", ["hand", "flicker", "lamp", "rain", "water", "hand over water", "cloud"])
def test_one_natural_shot_holds_no_transition_and_no_cut(analyse, tmp_path, kind):
    for seed in range(3):
        path = tmp_path / f"{seed}.mp4"
        write_video(path, natural(kind, seed), FPS, crf=23)
        timeline = analyse(path)
        assert (timeline.transitions, timeline.cuts) == ([], []), seed


@pytest.mark.parametrize(
    ("kinds", "seconds"),
    [
        (("hand", "water"), 1.0),
        (("water", "hand"), 1.0),
        (("water", "hand"), 2.0),
        (("rain", "hand over water"), 1.0),
        (("hand", "rain"), 0.5),
    ],
)
def test_dissolves_between_natural_shots_are_found(analyse, tmp_path, kinds, seconds):
    first, second = (list(natural(kind, seed + 4)) for seed, kind in enumerate(kinds))
    length = round(seconds * FPS)
    shares = (np.arange(length) + 1) / (length + 1)
    mixed = [
        cv2.addWeighted(a, 1 - share, b, share, 0)
        for a, b, share in zip(first[-length:], second[:length], shares.tolist(), strict=True)
    ]
    path = tmp_path / "dissolve.mp4"
    write_video(path, chain(first[:-length], mixed, second[length:]), FPS, crf=23)
    (found,) = analyse(path).transitions
    assert found.kind == "dissolve"
    middle = 4.0 - seconds / 2
    assert abs((found.start_s + found.end_s) / 2 - middle) < 0.2 + seconds / 4
