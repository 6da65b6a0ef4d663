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
    Subject,
)
from pipelines.synthesis.sampler import Split, is_held_out
from pipelines.synthesis.studio import write_film

SHAPES: tuple[ShapeName, ...] = ("circle", "square", "triangle", "star", "heart", "ring")
COLOURS = ("red", "yellow", "green", "blue", "purple", "white")
BACKGROUNDS = ("black", "grey", "brown", "green", "blue", "purple")
MATERIALS: tuple[MaterialName, ...] = ("wood", "metal", "glass")
MOTIONS: tuple[MotionKind, ...] = ("linear", "linear", "circular", "bouncing", "bouncing")
TRAVEL = 0.45  # heights in a second


def render_plain(folder: str | Path, count: int, seed: int = 0) -> Iterator[str]:
    """Write `count` films of the training split with their annotations, but those that are there; gives their names."""
    for number in range(count):
        name = f"plain-{seed:03d}-{number:06d}"
        if not (Path(folder) / f"{name}.json").is_file():
            write_film(sample_plain_film(seed * 1_000_003 + number), folder, name)
        yield name


def sample_plain_film(
    seed: int,
    *,
    size: tuple[int, int] = (128, 128),
    fps: Fraction | int = 32,
    seconds: float = 1.1,
    split: Split = "train",
) -> Film:
    """A film of the plain world. What bounces is heard where it hits; all else has music, rain, wind or a room."""
    rng = np.random.default_rng((seed, 0x71))
    while True:
        shape, colour, behind = (str(rng.choice(names)) for names in (SHAPES, COLOURS, BACKGROUNDS))
        if colour != behind and (split == "any" or is_held_out(shape, colour) == (split == "held-out")):
            break
    motion = _motion(rng, size[0] / size[1], seconds)
    subject = Subject(
        f"{colour}-{shape}",
        shape,  # type: ignore[arg-type]
        colour,
        material=MATERIALS[int(rng.integers(len(MATERIALS)))],
        size=float(rng.uniform(0.17, 0.21)),
        motion=motion,
    )
    scene = Scene((subject,), Background("flat", (behind, behind)), grain=0.0, seed=int(rng.integers(1 << 31)))
    sound = Soundtrack(ambience=Ambience("room", 0.002)) if motion.kind == "bouncing" else _sound(rng)
    return Film((Shot(scene, seconds),), size, Fraction(fps), sound=sound, seed=seed)


def _motion(rng: np.random.Generator, aspect: float, seconds: float) -> Motion:
    """A path in view for all of the film, and long enough to be seen for what it is."""
    kind = MOTIONS[int(rng.integers(len(MOTIONS)))]
    x, y = float(rng.uniform(0.4, 0.6)) * aspect, float(rng.uniform(0.4, 0.6))
    if kind == "bouncing":
        return Motion(kind, (x, float(rng.uniform(0.2, 0.4))), (float(rng.uniform(-0.2, 0.2)), 0.0))
    if kind == "circular":
        return Motion(kind, (x, y), radius=float(rng.uniform(0.16, 0.2)), period=float(rng.uniform(1.0, 1.3)))
    across = TRAVEL * float(rng.uniform(0.85, 1.15)) * (1 if rng.random() < 0.5 else -1)
    speed = (across * aspect, 0.0) if rng.random() < 0.5 else (0.0, across)
    middle = (0.5 * aspect, y) if speed[0] else (x, 0.5)
    return Motion(kind, (middle[0] - speed[0] * seconds / 2, middle[1] - speed[1] * seconds / 2), speed)


def _sound(rng: np.random.Generator) -> Soundtrack:
    kind = str(rng.choice(("music", "rain", "wind", "room")))
    if kind == "music":
        key, tempo = int(rng.integers(50, 62)), float(rng.integers(90, 130))
        return Soundtrack(False, Music(key=key, tempo=tempo, level=0.5), None)
    level = {"rain": 0.05, "wind": 0.1}.get(kind, 0.002)
    return Soundtrack(False, None, Ambience(kind, level))  # type: ignore[arg-type]
