"""The same film before and after an edit, exact to the pixel: what the mask leaves out is equal in both.

Hidden subjects go on moving and colliding unseen, so taking one away disturbs nobody else.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from pipelines.synthesis.annotations import pack_mask
from pipelines.synthesis.captions import CAMERA_WORDS, STYLE_WORDS, phrase
from pipelines.synthesis.film import (
    COLOURS,
    Background,
    Camera,
    CameraKind,
    Film,
    Scene,
    Shot,
    StyleName,
    Subject,
)
from pipelines.synthesis.masks import covered_at, masks_at
from pipelines.synthesis.overlays import overlay_mask
from pipelines.synthesis.sampler import sample_film
from pipelines.synthesis.signage import with_logo, with_sign, with_watermark
from pipelines.synthesis.stage import Set, build
from pipelines.synthesis.studio import write_film

EditKind = Literal[
    "insert",
    "delete",
    "recolour",
    "restyle",
    "background",
    "camera",
    "remove-text",
    "remove-watermark",
    "remove-logo",
]
OVERLAYS = {"remove-text": with_sign, "remove-watermark": with_watermark, "remove-logo": with_logo}
"""What puts on the film what the edit takes off again."""
GLOBAL_EDITS = ("restyle", "camera")
STYLES: tuple[StyleName, ...] = get_args(StyleName)


@dataclass(frozen=True)
class Choices:
    """What edits draw from: colours of what is recoloured, styles, and colours of flat backgrounds; without any of the
    last a background becomes a textured one."""

    colours: Sequence[str] = tuple(COLOURS)
    styles: Sequence[StyleName] = STYLES
    backgrounds: Sequence[str] = ()


@dataclass(frozen=True)
class EditPair:
    """`instruction` turns `before` into `after`; `target` is the subject's or overlay's name, if the edit has one."""

    kind: EditKind
    before: Film
    after: Film
    instruction: str
    target: str | None = None

    def masks(self) -> Iterator[np.ndarray]:
        """(H, W) bool per frame: True wherever the edit may change a pixel; equal elsewhere."""
        full = build(self.after if self.kind == "insert" else self.before)
        return (self._mask(full, index) for index in range(self.before.frames))

    def _mask(self, full: Set, index: int) -> np.ndarray:
        width, height = self.before.size
        if self.kind in GLOBAL_EDITS:
            return np.ones((height, width), bool)
        if self.kind == "background":
            return ~covered_at(full, index)
        if self.kind in OVERLAYS:
            return overlay_mask(full.stamps[-1:], self.before.size, index / self.before.fps)
        return masks_at(full, index).get(f"shot0/{self.target}", np.zeros((height, width), bool))


def make_pair(film: Film, kind: EditKind, seed: int = 0, choices: Choices = Choices()) -> EditPair:
    """An edit of the first shot of a single-shot film; which subject, colour, style ... is drawn from the seed."""
    if len(film.shots) != 1:
        raise ValueError(f"an edit pair is made of one shot, the film has {len(film.shots)}")
    rng = np.random.default_rng((seed, 0xED))
    shot = film.shots[0]
    if kind in ("insert", "delete", "recolour"):
        return _edit_subject(film, shot, kind, rng, choices.colours)
    if kind == "restyle":
        style: StyleName = _other(rng, tuple(choices.styles), shot.scene.style)
        return EditPair(kind, film, _with_scene(film, style=style), f"Change the style to {STYLE_WORDS[style]}.")
    if kind == "background":
        return _swap_background(film, shot, rng, choices.backgrounds)
    if kind == "camera":
        move: CameraKind = _other(rng, get_args(CameraKind), shot.camera.kind)
        camera = Camera(move, {"static": 0.0, "shake": 0.03}.get(move, 0.25), seed=seed)
        instruction = f"Change the camera work: {CAMERA_WORDS[move].lower()}"
        return EditPair(kind, film, replace(film, shots=(replace(shot, camera=camera),)), instruction)
    if kind in OVERLAYS:
        return _remove_overlay(film, kind, rng)
    raise ValueError(f"unknown edit {kind!r}; one of {', '.join(get_args(EditKind))}")


def write_pair(pair: EditPair, folder: str | Path, name: str) -> Path:
    """Write `name`.before.mp4, `name`.after.mp4, their annotations and `name`.edit.json with packed masks."""
    folder = Path(folder)
    for film, role in ((pair.before, "before"), (pair.after, "after")):
        write_film(film, folder, f"{name}.{role}")
    edit = {
        "kind": pair.kind,
        "instruction": pair.instruction,
        "target": pair.target,
        "before": f"{name}.before.mp4",
        "after": f"{name}.after.mp4",
        "size": list(pair.before.size),
        "fps": str(pair.before.fps),
        "frames": pair.before.frames,
        "sound": True,
        "masks": [pack_mask(mask) for mask in pair.masks()],
    }
    path = folder / f"{name}.edit.json"
    path.write_text(json.dumps(edit, ensure_ascii=False) + "\n", "utf-8")
    return path


def render_pairs(
    folder: str | Path,
    count: int,
    seed: int = 0,
    *,
    size: tuple[int, int] = (256, 256),
    fps: Fraction | int = 24,
    seconds: float = 5.0,
) -> Iterator[EditPair]:
    """Write `count` pairs, the kinds of edit in turn, each of a film of its own; yields each when it is written."""
    kinds: tuple[EditKind, ...] = get_args(EditKind)
    for index in range(count):
        kind = kinds[index % len(kinds)]
        film = sample_film(seed * 1_000_003 + index, size=size, fps=fps, seconds=seconds)
        pair = make_pair(film, kind, seed=index)
        write_pair(pair, folder, f"{index:06d}-{kind}")
        yield pair


def _edit_subject(film: Film, shot: Shot, kind: EditKind, rng: np.random.Generator, colours: Sequence[str]) -> EditPair:
    cast = [k for k, subject in enumerate(shot.scene.subjects) if not subject.hidden]
    if not cast:
        raise ValueError(f"{kind}: the scene shows no subject")
    place = int(rng.choice(cast))
    subject = shot.scene.subjects[place]
    name = phrase(subject)
    if kind == "recolour":
        colour = _other(rng, tuple(colours), subject.colour)
        after = _with_subject(film, place, replace(subject, colour=colour))
        return EditPair(kind, film, after, f"Change the colour of {_the(name)} to {colour}.", subject.name)
    without = _with_subject(film, place, replace(subject, hidden=True))
    if kind == "insert":
        return EditPair(kind, without, film, f"Add {name} to the scene.", subject.name)
    return EditPair(kind, film, without, f"Remove {_the(name)} from the scene.", subject.name)


def _swap_background(film: Film, shot: Shot, rng: np.random.Generator, flat: Sequence[str]) -> EditPair:
    old = shot.scene.background
    if flat:
        colour = _other(rng, tuple(flat), old.colours[0])
        after = _with_scene(film, background=replace(old, kind="flat", colours=(colour, colour)))
        return EditPair("background", film, after, f"Change the background to flat {colour}.")
    first = _other(rng, ("teal", "grey", "brown", "green", "blue", "orange"), old.colours[0])
    background = Background("textured", (first, old.colours[0]), int(rng.integers(1 << 31)))
    instruction = f"Replace the background by a textured one of {first} and {old.colours[0]}."
    return EditPair("background", film, _with_scene(film, background=background), instruction)


def _remove_overlay(film: Film, kind: EditKind, rng: np.random.Generator) -> EditPair:
    marked = OVERLAYS[kind](film, int(rng.integers(1 << 31)))
    overlay = marked.overlays[-1]
    what = f'text "{overlay.text}"' if kind == "remove-text" else overlay.kind
    return EditPair(kind, marked, film, f"Remove the {what}.", overlay.text)


def _with_subject(film: Film, place: int, subject: Subject) -> Film:
    subjects = film.shots[0].scene.subjects
    return _with_scene(film, subjects=(*subjects[:place], subject, *subjects[place + 1 :]))


def _with_scene(film: Film, **changes: object) -> Film:
    shot = film.shots[0]
    scene: Scene = replace(shot.scene, **changes)  # type: ignore[arg-type]
    return replace(film, shots=(replace(shot, scene=scene),))


def _the(noun_phrase: str) -> str:
    return "the " + noun_phrase.split(" ", 1)[1]


def _other(rng: np.random.Generator, options: tuple[Any, ...], not_this: Any) -> Any:
    rest = [option for option in options if option != not_this]
    return rest[int(rng.integers(len(rest)))]
