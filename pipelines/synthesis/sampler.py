"""Films drawn from a seed: plausible clips whose every attribute is known."""

import zlib
from dataclasses import replace
from fractions import Fraction
from typing import Any, Literal, get_args

import numpy as np

from pipelines.synthesis.film import (
    Ambience,
    AmbienceKind,
    Background,
    Camera,
    CameraKind,
    Film,
    Line,
    MaterialName,
    Motion,
    Music,
    Scene,
    ShapeName,
    Shot,
    Soundtrack,
    StyleName,
    Subject,
    TextureName,
    TransitionKind,
)
from pipelines.synthesis.physics import solve
from pipelines.synthesis.sentences import SENTENCES
from pipelines.synthesis.voice import VOWELS, speak

Split = Literal["train", "held-out", "any"]
SUBJECT_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
BACKGROUND_COLOURS = ("teal", "grey", "brown", "green", "blue", "orange", "purple")
LINE_RATE = 16000  # Hz, enough to measure how long a line takes
FACES: tuple[ShapeName, ...] = ("circle", "square", "hexagon")  # shapes with room for a face
MAJOR_SCALE = (57, 59, 61, 62, 64, 66, 68, 69)  # MIDI notes
HELD_OUT_SHARE = 8  # one combination in this many


def is_held_out(shape: str, colour: str) -> bool:
    """Whether a combination of shape and colour is kept from training, to test composition on it."""
    return zlib.crc32(f"{shape}/{colour}".encode()) % HELD_OUT_SHARE == 0


def sample_film(
    seed: int,
    *,
    size: tuple[int, int] = (256, 256),
    fps: Fraction | int = 24,
    seconds: float = 4.0,
    shots: int = 1,
    subjects: int | None = None,
    transition: TransitionKind = "cut",
    sound: Literal["full", "impacts", "speech", "singing", "music"] = "full",
    style: StyleName | Literal["any"] = "natural",
    camera: CameraKind | Literal["any"] = "any",
    split: Split = "any",
) -> Film:
    """A film of `shots` shots of about one length, `seconds` in all; `subjects` per shot (default: 2 or 3).

    `sound`: "full" is impacts, music and ambience. `camera`: "any" is any steady one. `split` limits the pairs of
    shape and colour to those that training may see, or to those it may not.
    """
    rng = np.random.default_rng((seed, 0xF1))
    aspect = size[0] / size[1]
    lengths = _shot_lengths(rng, shots, seconds)
    voiced = sound in ("speech", "singing")
    looks = get_args(StyleName) if style == "any" else (style,)
    made = tuple(
        Shot(
            _scene(rng, aspect, length, subjects or int(rng.integers(2, 4)), split, _choice(rng, looks), voiced),
            length,
            _camera(rng, camera),
            transition if number else "cut",
            0.0 if transition == "cut" or not number else min(0.8, length / 3),
        )
        for number, length in enumerate(lengths)
    )
    film = Film(made, size, Fraction(fps), sound=sample_sound(rng, seconds, sound), seed=seed)
    lines = tuple(replace(line, speaker=_speaker(film, line.start)) for line in film.sound.lines)
    return replace(film, sound=replace(film.sound, lines=lines))


def sample_impact_film(
    seed: int,
    *,
    size: tuple[int, int] = (256, 256),
    fps: Fraction | int = 24,
    seconds: float = 5.0,
    impacts: int = 6,
) -> Film:
    """A film of one bouncing ball and little else, with at least `impacts` irregular impacts, heard without music."""
    for attempt in range(100):
        film = sample_film(seed + 7919 * attempt, size=size, fps=fps, seconds=seconds, subjects=1, sound="impacts")
        shot = film.shots[0]
        rng = np.random.default_rng((seed, attempt, 0x1B))
        ball = replace(
            shot.scene.subjects[0],
            shape="circle",
            size=0.13,
            material=_choice(rng, ("wood", "stone", "glass")),
            motion=Motion("bouncing", _spot(rng, film.aspect), (0.3, 0.0), spin=float(rng.uniform(0.5, 2))),
        )
        scene = replace(shot.scene, subjects=(ball,))
        times = [hit.time for hit in solve(scene, film.aspect, shot.seconds).impacts]
        # Apart enough to be told from one another, by eye and by ear.
        if len(times) >= impacts and min(np.diff([0.0, *times]), default=0.0) > 0.15:
            still = replace(shot, scene=scene, camera=Camera())
            return replace(film, shots=(still, *film.shots[1:]), seed=seed)
    raise ValueError(f"no film of {impacts} separate impacts found for seed {seed}; make it longer")


def sample_sound(rng: np.random.Generator, seconds: float, kind: str) -> Soundtrack:
    """Music, ambience, lines and impacts as `kind` asks."""
    ambience = Ambience(_choice(rng, get_args(AmbienceKind)), 0.0015)
    room = Ambience("room", 0.007)
    if kind == "impacts":
        return Soundtrack(ambience=room)
    music = Music(
        key=int(rng.integers(50, 62)),
        progression=_choice(rng, ((0, 5, 7, 0), (0, 9, 5, 7), (0, 7, 9, 5), (0, 3, 5, 7))),
        minor=bool(rng.random() < 0.4),
        tempo=float(rng.integers(76, 132)),
        level=0.5,
        mood=_choice(rng, ("calm", "bright")),
    )
    if kind == "music":
        return Soundtrack(impacts=False, music=music)
    if kind in ("speech", "singing"):
        return Soundtrack(False, None, replace(room, level=0.003), _lines(rng, seconds, sung=kind == "singing"))
    return Soundtrack(music=music, ambience=ambience)


def _lines(rng: np.random.Generator, seconds: float, *, sung: bool) -> tuple[Line, ...]:
    """Lines by one speaker, one after another, spoken as slowly as it takes to fill the time."""
    language = _choice(rng, tuple(SENTENCES))
    pitch = float(rng.choice([105, 120, 135, 190, 215]))
    order = rng.permutation(len(SENTENCES[language]))
    gap, at, lines = 0.12, 0.1, list[Line]()
    for turn in range(1000):
        text, phonetic = SENTENCES[language][int(order[turn % len(order)])]
        vowels = sum(letter in VOWELS for letter in phonetic)
        notes = tuple(int(note) for note in rng.choice(MAJOR_SCALE, vowels)) if sung else ()
        line = Line(text, at, language, phonetic, pitch, notes=notes)
        at += speak(line, LINE_RATE).samples.size / LINE_RATE + gap
        if lines and at > seconds:
            break
        lines.append(line)
    spoken = [speak(line, LINE_RATE).samples.size / LINE_RATE for line in lines]
    speed = max(0.75, sum(spoken) / (seconds - 0.2 - gap * len(lines)))
    starts = 0.1 + np.cumsum([0.0, *(length / speed + gap for length in spoken)])
    return tuple(replace(line, start=float(start), speed=speed) for line, start in zip(lines, starts, strict=False))


def _spot(rng: np.random.Generator, aspect: float) -> tuple[float, float]:
    return float(rng.uniform(0.25, 0.6)) * aspect, float(rng.uniform(0.2, 0.5))


def _shot_lengths(rng: np.random.Generator, shots: int, seconds: float) -> list[float]:
    shares = rng.uniform(0.8, 1.2, shots)
    return [float(share) for share in seconds * shares / shares.sum()]


def _speaker(film: Film, time: float) -> str:
    """Who is in view with a mouth when a line starts."""
    edges = film.shot_frames
    number = max(k for k in range(len(film.shots)) if edges[k] <= time * film.fps)
    return next(subject.name for subject in film.shots[number].scene.subjects if subject.speaks)


def _camera(rng: np.random.Generator, wanted: CameraKind | Literal["any"]) -> Camera:
    kind: CameraKind = _choice(rng, ("static", "pan", "push-in", "zoom-out")) if wanted == "any" else wanted
    amount = {"static": 0.0, "pan": 0.22, "shake": 0.03}.get(kind, 0.3)
    return Camera(kind, amount, (1.0, 0.0) if rng.random() < 0.5 else (-1.0, 0.0))


def _scene(
    rng: np.random.Generator, aspect: float, seconds: float, count: int, split: Split, style: StyleName, voiced: bool
) -> Scene:
    first, second = rng.permutation(len(BACKGROUND_COLOURS))[:2]
    background = Background(
        _choice(rng, ("textured", "textured", "gradient", "two-tone")),
        (BACKGROUND_COLOURS[first], BACKGROUND_COLOURS[second]),
        int(rng.integers(1 << 31)),
    )
    cast: list[Subject] = []
    for number in range(count):
        speaks = voiced and number == 0
        taken = {(subject.shape, subject.colour) for subject in cast}
        shape, colour = _look(rng, FACES if speaks else get_args(ShapeName), taken, background.colours, split)
        closeness = 1.5 if count == 1 else 1.0  # alone in the picture: a portrait
        size = float(closeness * rng.uniform(0.17, 0.22) if speaks else rng.uniform(0.09, 0.14))
        motion = _motion(rng, aspect, seconds, size, (number + 0.5) / count)
        cast.append(
            Subject(
                f"{colour}-{shape}",
                shape,
                colour,
                "plain" if speaks else _choice(rng, get_args(TextureName)),
                _choice(rng, get_args(MaterialName)),
                size,
                Motion("still", (aspect * float(rng.uniform(0.3, 0.7)), 0.5)) if speaks else motion,
                speaks=speaks,
            )
        )
    # The speaker in front of the others.
    return Scene(tuple(cast[::-1]), background, style, seed=int(rng.integers(1 << 31)))


def _look(
    rng: np.random.Generator,
    shapes: tuple[ShapeName, ...],
    taken: set[tuple[Any, str]],
    behind: tuple[str, str],
    split: Split,
) -> tuple[ShapeName, str]:
    """A shape and a colour that no other subject has, told apart from what is behind."""
    while True:
        shape, colour = _choice(rng, shapes), _choice(rng, SUBJECT_COLOURS)
        fits = split == "any" or is_held_out(shape, colour) == (split == "held-out")
        if fits and (shape, colour) not in taken and colour not in behind:
            return shape, colour


def _motion(rng: np.random.Generator, aspect: float, seconds: float, size: float, lane: float) -> Motion:
    """A path that stays in view; `lane` in (0, 1) keeps subjects apart at the start."""
    kind = _choice(rng, ("linear", "circular", "zigzag", "bouncing", "bouncing"))
    spin, x = float(rng.uniform(-1.5, 1.5)), aspect * (0.15 + 0.7 * lane)
    direction = 1.0 if x < aspect / 2 else -1.0
    if kind == "bouncing":
        return Motion(
            kind, (x, float(rng.uniform(size, 0.4))), (direction * float(rng.uniform(0.15, 0.5)), 0.0), spin=spin
        )
    if kind == "circular":
        return Motion(
            kind, (x, 0.45), radius=float(rng.uniform(0.12, 0.25)), period=float(rng.uniform(1.6, 3.5)), spin=spin
        )
    speed = direction * float(rng.uniform(0.4, 0.7)) * aspect / seconds
    height = float(rng.uniform(0.25, 0.7))
    if kind == "zigzag":
        return Motion(
            kind, (x, height), (speed, 0.0), float(rng.uniform(0.06, 0.14)), float(rng.uniform(0.8, 1.6)), spin
        )
    return Motion(kind, (x, height), (speed, float(rng.uniform(-0.1, 0.1)) / seconds), spin=spin)


def _choice(rng: np.random.Generator, options: tuple[Any, ...]) -> Any:
    return options[int(rng.integers(len(options)))]
