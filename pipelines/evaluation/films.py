"""What a model is asked, with its truth: films of the plain world in combinations that training never saw.

Evaluation draws from seeds of its own; whoever develops a metric or tunes a model uses `DEVELOPMENT_SEED` upwards.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import cv2
import numpy as np

from pipelines.evaluation.clips import Clip
from pipelines.synthesis.captions import captions
from pipelines.synthesis.film import Film, MotionKind, Subject
from pipelines.synthesis.plain import COLOURS, sample_plain_film
from pipelines.synthesis.sampler import Split
from pipelines.synthesis.studio import Rendered, render

EVALUATION_SEED = 900_000_000
DEVELOPMENT_SEED = 800_000_000
SEEDS_PER_SUITE = 1_000_000
FINER = 2  # rendered at this many times the size and the rate, and brought down, as curation does with its sources
_KINDS = {"circular": "circles", "bouncing": "bounces", "still": "rests"}


@dataclass(frozen=True)
class Format:
    """What a model makes by default."""

    frames: int
    fps: float
    height: int
    width: int

    @property
    def seconds(self) -> float:
        return self.frames / self.fps


@dataclass(frozen=True)
class Truth:
    """What is so in a clip. `hits` are the seconds of impacts, `centres` (F, 2) in fractions of width and height."""

    prompt: str
    shape: str
    colour: str
    background: str
    motion: str
    sound: str
    subjects: int
    hits: tuple[float, ...]
    centres: np.ndarray


@dataclass(frozen=True)
class Example:
    """A film with its render in the model's format."""

    film: Film
    truth: Truth
    clip: Clip

    @property
    def subject(self) -> Subject:
        return self.film.shots[0].scene.subjects[0]

    def with_subject(self, form: Format, **changes: object) -> "Example":
        """The same film, but for its subject."""
        shot = self.film.shots[0]
        scene = replace(shot.scene, subjects=(replace(self.subject, **changes),))  # type: ignore[arg-type]
        return shown(replace(self.film, shots=(replace(shot, scene=scene),)), form)

    def other_colour(self) -> str:
        """Another colour of the world, told apart from the background."""
        rest = [name for name in COLOURS if name not in (self.subject.colour, self.truth.background)]
        return rest[self.film.seed % len(rest)]


def examples(
    seed: int, count: int, form: Format, motion: MotionKind | None = None, split: Split = "held-out"
) -> Iterator[Example]:
    """`count` films from `seed` on, of one kind of motion where it is given."""
    found = 0
    for number in range(SEEDS_PER_SUITE):
        if found == count:
            return
        film = plain_film(seed + number, form, split)
        if motion in (None, film.shots[0].scene.subjects[0].motion.kind):
            found += 1
            yield shown(film, form)


def plain_film(seed: int, form: Format, split: Split = "held-out") -> Film:
    """A film of the plain world that comes down to the format."""
    size, fps = (FINER * form.width, FINER * form.height), FINER * Fraction(form.fps).limit_denominator(1001)
    return sample_plain_film(seed, size=size, fps=fps, seconds=form.seconds, split=split)


def shown(film: Film, form: Format) -> Example:
    """Render a film and bring it down."""
    rendered = render(film)
    clip = Clip(brought_down(rendered.frames(every=FINER), form), form.fps, rendered.audio, film.sample_rate)
    return Example(film, _truth(rendered, form), clip)


def brought_down(frames: Iterable[np.ndarray], form: Format) -> np.ndarray:
    """Pictures in the size of the format."""
    size = (form.width, form.height)
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])


def _truth(rendered: Rendered, form: Format) -> Truth:
    film, world = rendered.set.film, rendered.set.stages[0].world
    scene, sound = film.shots[0].scene, film.sound
    places = [world.position(0, number / form.fps) for number in range(form.frames)]
    bounces = scene.subjects[0].motion.kind == "bouncing"
    ambience = sound.ambience.kind if sound.ambience is not None else "room"
    return Truth(
        prompt=captions(film, rendered.events)["short"],
        shape=scene.subjects[0].shape,
        colour=scene.subjects[0].colour,
        background=scene.background.colours[0],
        motion=_motion(scene.subjects[0]),
        sound=scene.subjects[0].material if bounces else "music" if sound.music is not None else ambience,
        subjects=sum(not subject.hidden for subject in scene.subjects),
        hits=tuple(event.start for event in rendered.events if event.kind == "sfx"),
        centres=np.array(places) / (film.aspect, 1.0),
    )


def _motion(subject: Subject) -> str:
    across, down = subject.motion.velocity
    if subject.motion.kind != "linear":
        return _KINDS[subject.motion.kind]
    if abs(across) >= abs(down):
        return "right" if across > 0 else "left"
    return "down" if down > 0 else "up"
