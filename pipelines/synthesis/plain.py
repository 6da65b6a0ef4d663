"""Films plain enough for a small model to learn: one subject, a flat background, a still camera, one sound.

Everything that differs between two of them is in their caption, save where the subject is. Shape and colour, motion,
background and sound are drawn apart from one another, so that a model that knows the parts can make new combinations.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from pipelines.synthesis.film import (
    Ambience,
    Background,
    Film,
    MaterialName,
    Motion,
    MotionKind,
    Music,
    Scene,
    ShapeName,
    Shot,
    Soundtrack,
    StyleName,
    Subject,
)
from pipelines.synthesis.pairs import Choices, EditKind, make_pair, write_pair
from pipelines.synthesis.sampler import Split, is_held_out
from pipelines.synthesis.studio import write_film

SHAPES: tuple[ShapeName, ...] = ("circle", "square", "triangle", "star", "heart", "ring")
COLOURS = ("red", "yellow", "green", "blue", "purple", "white")
BACKGROUNDS = ("black", "grey", "brown", "green", "blue", "purple")
MATERIALS: tuple[MaterialName, ...] = ("wood", "metal", "glass")
MOTIONS: tuple[MotionKind, ...] = ("linear", "linear", "circular", "bouncing", "bouncing")
TRAVEL = 0.45  # heights in a second, or in the whole of a longer film
SECONDS = 1.1
LONGER = 2.3
"""Every second film: a second of it leaves room for references from other times."""
EMPTY = 20
"""One film in so many shows its background alone: what is left where a subject is removed."""
FIRST_HIT = (0.12, 0.75)  # seconds; spread, so that a hit can only be placed by looking
EDITS: tuple[EditKind, ...] = ("insert", "delete", "recolour", "background", "restyle")
STYLES: tuple[StyleName, ...] = ("outline", "noir")
"""Those that a small picture without texture shows."""


def render_plain(folder: str | Path, count: int, seed: int = 0) -> Iterator[str]:
    """Write `count` films of the training split with their annotations, but those that are there; gives their names."""
    for number in range(count):
        name = f"plain-{seed:03d}-{number:06d}"
        if not (Path(folder) / f"{name}.json").is_file():
            seconds, empty = LONGER if number % 2 else SECONDS, number % EMPTY == 0
            film = sample_plain_film(seed * 1_000_003 + number, seconds=seconds, empty=empty)
            write_film(film, folder, name)
        yield name


def render_plain_pairs(folder: str | Path, count: int, seed: int = 0) -> Iterator[str]:
    """Write `count` edit pairs of films of the training split, the kinds in turn; gives their names."""
    for number in range(count):
        kind = EDITS[number % len(EDITS)]
        name = f"{seed:03d}-{number:06d}-{kind}"
        if not (Path(folder) / f"{name}.edit.json").is_file():
            film = sample_plain_film((seed + 500) * 1_000_003 + number)  # not those of the films
            write_pair(make_pair(film, kind, number, plain_choices(film)), folder, name)
        yield name


def plain_choices(film: Film) -> Choices:
    """Edits after which a film is still of this world, its subject another colour than what is behind it."""
    scene = film.shots[0].scene
    worn = {subject.colour for subject in scene.subjects}
    return Choices(
        colours=tuple(colour for colour in COLOURS if colour != scene.background.colours[0]),
        styles=STYLES,
        backgrounds=tuple(colour for colour in BACKGROUNDS if colour not in worn),
    )


def sample_plain_film(
    seed: int,
    *,
    size: tuple[int, int] = (128, 128),
    fps: Fraction | int = 32,
    seconds: float = SECONDS,
    split: Split = "train",
    empty: bool = False,
) -> Film:
    """A film of the plain world. What bounces is heard where it hits; all else has music, rain, wind or a room.

    An `empty` one shows its background alone.
    """
    rng = np.random.default_rng((seed, 0x71))
    while True:
        shape, colour, behind = (str(rng.choice(names)) for names in (SHAPES, COLOURS, BACKGROUNDS))
        if colour != behind and (split == "any" or is_held_out(shape, colour) == (split == "held-out")):
            break
    radius = float(rng.uniform(0.17, 0.21))
    motion = _motion(rng, size[0] / size[1], seconds, radius)
    subject = Subject(
        f"{colour}-{shape}",
        shape,  # type: ignore[arg-type]
        colour,
        material=MATERIALS[int(rng.integers(len(MATERIALS)))],
        size=radius,
        motion=motion,
    )
    scene = Scene(
        () if empty else (subject,), Background("flat", (behind, behind)), grain=0.0, seed=int(rng.integers(1 << 31))
    )
    hit = motion.kind == "bouncing" and not empty
    sound = Soundtrack(ambience=Ambience("room", 0.002)) if hit else _sound(rng)
    return Film((Shot(scene, seconds),), size, Fraction(fps), sound=sound, seed=seed)


def _motion(rng: np.random.Generator, aspect: float, seconds: float, radius: float) -> Motion:
    """A path in view for all of the film, and long enough to be seen for what it is."""
    kind = MOTIONS[int(rng.integers(len(MOTIONS)))]
    x, y = float(rng.uniform(0.4, 0.6)) * aspect, float(rng.uniform(0.4, 0.6))
    if kind == "bouncing":
        height, fall = _fall(rng, radius)
        return Motion(kind, (x, height), (float(rng.uniform(-0.2, 0.2)), fall))
    if kind == "circular":
        return Motion(kind, (x, y), radius=float(rng.uniform(0.16, 0.2)), period=float(rng.uniform(1.0, 1.3)))
    slower = min(1.0, SECONDS / seconds)
    across = TRAVEL * slower * float(rng.uniform(0.85, 1.15)) * (1 if rng.random() < 0.5 else -1)
    speed = (across * aspect, 0.0) if rng.random() < 0.5 else (0.0, across)
    middle = (0.5 * aspect, y) if speed[0] else (x, 0.5)
    return Motion(kind, (middle[0] - speed[0] * seconds / 2, middle[1] - speed[1] * seconds / 2), speed)


def _fall(rng: np.random.Generator, radius: float) -> tuple[float, float]:
    """Height and speed at the start, so that the floor is first hit at a time of `FIRST_HIT` and the ceiling never."""
    while True:
        seconds, height = float(rng.uniform(*FIRST_HIT)), float(rng.uniform(0.25, 0.6))
        speed = (Scene.floor - radius - height) / seconds - Scene.gravity * seconds / 2
        top = height - (speed**2 / (2 * Scene.gravity) if speed < 0 else 0.0)
        if top > radius and speed < Scene.gravity / 2:
            return height, speed


def _sound(rng: np.random.Generator) -> Soundtrack:
    kind = str(rng.choice(("music", "rain", "wind", "room")))
    if kind == "music":
        key, tempo = int(rng.integers(50, 62)), float(rng.integers(90, 130))
        return Soundtrack(False, Music(key=key, tempo=tempo, level=0.5), None)
    level = {"rain": 0.05, "wind": 0.1}.get(kind, 0.002)
    return Soundtrack(False, None, Ambience(kind, level))  # type: ignore[arg-type]
