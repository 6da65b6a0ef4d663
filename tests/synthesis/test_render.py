from dataclasses import replace
from fractions import Fraction
from typing import get_args

import numpy as np
import pytest

from pipelines.synthesis.film import (
    Background,
    Camera,
    CameraKind,
    Film,
    Motion,
    Overlay,
    Scene,
    ShapeName,
    Shot,
    StyleName,
    Subject,
)
from pipelines.synthesis.masks import covered_at, masks_at
from pipelines.synthesis.render import frame_at, frames
from pipelines.synthesis.sampler import sample_film
from pipelines.synthesis.stage import build
from pipelines.synthesis.timeline import locate

BALL = Subject("ball", "circle", "red", "stripes", size=0.15, motion=Motion("bouncing", (0.4, 0.3), (0.4, 0.0), spin=2))
STAR = Subject("star", "star", "yellow", size=0.15, motion=Motion("circular", (0.5, 0.6), radius=0.15, period=1.5))


def one_shot(*subjects, seconds=1.0, size=(96, 64), camera=Camera(), **scene):  # noqa: B008  (frozen)
    shot = Shot(Scene(subjects, Background("textured", ("teal", "grey"), 5), **scene), seconds, camera)
    return Film((shot,), size, Fraction(12), seed=1)


def without(film, place):
    scene = film.shots[0].scene
    cast = tuple(replace(s, hidden=True) if k == place else s for k, s in enumerate(scene.subjects))
    return replace(film, shots=(replace(film.shots[0], scene=replace(scene, subjects=cast)),))


@pytest.mark.parametrize("style", get_args(StyleName))
@pytest.mark.parametrize("camera", [Camera(), Camera("push-in", 0.3), Camera("shake", 0.03, seed=2)])
def test_taking_a_subject_away_changes_its_mask_and_nothing_else(style, camera):
    film = one_shot(BALL, STAR, style=style, camera=camera)
    with_it, without_it = build(film), build(without(film, 0))
    for index in range(film.frames):
        mask = masks_at(with_it, index)["shot0/ball"]
        changed = (frame_at(with_it, index) != frame_at(without_it, index)).any(axis=-1)
        assert not (changed & ~mask).any()
        assert changed.sum() > 0.5 * mask.sum() > 0


@pytest.mark.parametrize("style", ["natural", "pixelated", "noir"])
def test_covered_pixels_owe_nothing_to_the_background(style):
    film = one_shot(BALL, STAR, style=style)
    other = replace(film.shots[0].scene, background=Background("flat", ("orange", "orange")))
    before, after = build(film), build(replace(film, shots=(replace(film.shots[0], scene=other),)))
    for index in (0, 5, 11):
        covered = covered_at(before, index)
        same = (frame_at(before, index) == frame_at(after, index)).all(axis=-1)
        assert covered.sum() > 50
        assert same[covered].all()
        assert same[~covered].mean() < 0.2


@pytest.mark.parametrize("shape", get_args(ShapeName))
def test_shapes_are_drawn_where_physics_puts_them(shape):
    subject = Subject("it", shape, "red", size=0.3, motion=Motion("still", (0.9, 0.45)))
    mask = masks_at(build(one_shot(subject, size=(180, 100))), 0)["shot0/it"]
    rows, columns = np.nonzero(mask)
    assert columns.mean() == pytest.approx(90, abs=1.5)
    assert (columns.min() + columns.max()) / 2 == pytest.approx(89.5, abs=1.5)
    assert rows.min() >= 45 - 31
    assert rows.max() <= 45 + 31
    assert 20 < np.ptp(rows) <= 62


def test_a_half_pixel_step_moves_the_centre_by_half_a_pixel():
    def centre(x):
        subject = Subject("it", "circle", "white", size=0.2, motion=Motion("still", (x, 0.5)))
        film = one_shot(subject, size=(100, 100), grain=0.0)
        empty = frame_at(build(without(film, 0)), 0).astype(float)
        weight = np.abs(frame_at(build(film), 0).astype(float) - empty).sum(axis=-1) > 60
        return (weight.sum(axis=0) @ np.arange(100)) / weight.sum()

    assert centre(0.505) - centre(0.5) == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("kind", [k for k in get_args(CameraKind) if k != "static"])
def test_the_camera_moves_a_world_without_subjects(kind):
    film = one_shot(camera=Camera(kind, 0.03 if kind == "shake" else 0.25), grain=0.0)
    ready = build(film)
    first, middle, last = (frame_at(ready, k).astype(int) for k in (0, 5, film.frames - 1))
    assert np.abs(first - middle).mean() > 1
    assert np.abs(middle - last).mean() > 1


def test_push_in_magnifies_by_its_amount():
    subject = Subject("it", "circle", "red", size=0.15, motion=Motion("still", (0.75, 0.5)))
    ready = build(one_shot(subject, camera=Camera("push-in", 0.5), size=(150, 100), seconds=2.0))
    first, last = (masks_at(ready, k)["shot0/it"].sum() for k in (0, 23))
    assert last / first == pytest.approx(1.5**2, rel=0.06)


def test_hard_cuts_are_spikes_of_frame_difference():
    film = sample_film(4, size=(96, 96), seconds=3.0, shots=3)
    shown = np.stack(list(frames(build(film)))).astype(int)
    change = np.abs(np.diff(shown, axis=0)).mean(axis=(1, 2, 3))
    cuts = list(film.shot_frames[1:-1])
    assert sorted(np.argsort(change)[-2:] + 1) == cuts
    others = np.delete(change, [cut - 1 for cut in cuts])
    assert change[[cut - 1 for cut in cuts]].min() > 2 * others.max()


def test_dissolves_mix_and_fades_pass_through_black():
    for transition in ("dissolve", "fade"):
        film = sample_film(4, size=(64, 64), seconds=4.0, shots=2, transition=transition)
        shown = np.stack(list(frames(build(film)))).astype(int)
        change = np.abs(np.diff(shown, axis=0)).mean(axis=(1, 2, 3))
        assert change.max() < 25  # no hard cut
        edge = film.shot_frames[1]
        brightness = shown.mean(axis=(1, 2, 3))
        darkest = int(brightness.argmin())
        assert (brightness.min() < 5 and abs(darkest - edge) <= 1) == (transition == "fade")


def test_locate_finds_the_shot_of_every_frame():
    film = sample_film(4, seconds=3.0, shots=3)
    edges = film.shot_frames
    assert locate(film, 0) == (0, 0.0)
    assert locate(film, edges[1] - 1)[0] == 0
    assert locate(film, edges[1]) == (1, 0.0)
    assert locate(film, film.frames - 1)[0] == 2


def test_frames_do_not_depend_on_the_order_they_are_asked_for():
    film = replace(one_shot(BALL, STAR), overlays=(Overlay("text", "Hi", size=0.3),))
    in_order = list(frames(build(film)))
    ready = build(film)
    for index in (7, 0, 11, 3):
        assert (frame_at(ready, index) == in_order[index]).all()


def test_any_size_fps_and_length():
    for size, fps, seconds in (((64, 64), Fraction(8), 0.5), ((322, 180), Fraction(30000, 1001), 0.3)):
        film = replace(one_shot(BALL, seconds=seconds, size=size), fps=fps)
        shown = list(frames(build(film)))
        assert len(shown) == round(seconds * fps)
        assert shown[0].shape == (size[1], size[0], 3)
