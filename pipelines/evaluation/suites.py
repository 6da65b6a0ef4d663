"""What a model is asked, task by task, with the targets that were set before the first model was judged.

Seeds are part of a suite: its films, and the noise that a model starts from, are the same for every model. A change of
a suite, a metric or a target is a decision record with the figures before and after.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
import torch

from model.conditioning import AudioReference, ImageReference, VideoReference
from model.media import video_tensor
from pipelines.evaluation.clips import Clip
from pipelines.evaluation.films import (
    EVALUATION_SEED,
    FINER,
    SEEDS_PER_SUITE,
    Example,
    Format,
    Truth,
    brought_down,
    shown,
)
from pipelines.evaluation.metrics import Case
from pipelines.overlays.find import cover, find_overlays
from pipelines.synthesis.film import MotionKind
from pipelines.synthesis.pairs import make_pair
from pipelines.synthesis.plain import plain_choices
from pipelines.synthesis.signage import with_subtitles
from pipelines.synthesis.studio import render

REFERENCE_S = 0.5
"""Of clips and sounds that are shown as references."""
LINES = 256
"""Of a film under subtitles: letters are as large as they are in the wild."""
MISSING = (
    "multi-shot",
    "edits: camera",
    "removal of watermarks and logos",
    "references: voice",
    "speech and lip sync",
    "spatial audio, soundstage and atmosphere",
)
"""What the bench does not ask yet."""


@dataclass(frozen=True)
class Ask:
    """`arguments` of `Generator.prepare`, and what the clip is held against: see `metrics.Case`.

    `right` is a clip that answers perfectly, by which the judge is judged.
    """

    arguments: Mapping[str, Any]
    truth: Truth
    right: Clip
    source: Clip | None = None
    given: Mapping[int, int] = field(default_factory=dict)
    keep: np.ndarray | None = None
    own_hits: bool = False
    baseline: np.ndarray | None = None
    low: np.ndarray | None = None
    """What a refiner starts from."""

    def case(self, made: Clip) -> Case:
        return Case(made, self.truth, self.source, self.given, self.keep, self.own_hits, self.baseline)


@dataclass(frozen=True)
class Target:
    """At least `value` (at most, where lower is better); `of_ceiling`: times what ground truth scores."""

    metric: str
    value: float
    of_ceiling: bool = False


@dataclass(frozen=True)
class Suite:
    """`ask` turns a film into a request; `metrics` judge the answer, those of `targets` are held to something.

    `motion` limits the films. `way`: most suites generate; "codec" and "refiner" try these parts alone.
    """

    name: str
    number: int
    ask: Callable[[Example, Format], Ask]
    metrics: tuple[str, ...]
    targets: tuple[Target, ...] = ()
    motion: MotionKind | None = None
    way: str = "generate"

    @property
    def seed(self) -> int:
        return EVALUATION_SEED + self.number * SEEDS_PER_SUITE


def _told(example: Example, **arguments: Any) -> dict[str, Any]:
    return {"prompt": example.truth.prompt, **arguments}


def _silent(clip: Clip) -> Clip:
    return replace(clip, audio=None)


def _codec(example: Example, form: Format) -> Ask:
    return Ask(_told(example), example.truth, example.clip, example.clip)


def _refiner(example: Example, form: Format) -> Ask:
    """The true clip, small and slow, to be made large and smooth; beside it what blending alone would give."""
    large = np.stack(list(render(example.film).frames()))[: FINER * (form.frames - 1) + 1]
    plain = enlarged(_frames(example), len(large), (large.shape[2], large.shape[1]))
    source = Clip(large, FINER * form.fps, unrefined=plain, dense=large)
    asked = _told(example, refine=True, sound=False)
    return Ask(asked, example.truth, source, source, baseline=plain, low=_frames(example))


def enlarged(frames: np.ndarray, count: int, size: tuple[int, int]) -> np.ndarray:
    """(F, H, W, 3) uint8 at `count` frames of `size` (width, height): blended in time, linear in space."""
    places = np.linspace(0, len(frames) - 1, count)
    before = np.minimum(places.astype(int), len(frames) - 2)
    share = (places - before)[:, None, None, None]
    blended = (1 - share) * frames[before].astype(np.float32) + share * frames[before + 1]
    return np.rint(np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR) for frame in blended])).astype(
        np.uint8
    )


def _t2v(example: Example, form: Format) -> Ask:
    return Ask(_told(example, sound=False), example.truth, _silent(example.clip))


def _t2av(example: Example, form: Format) -> Ask:
    return Ask(_told(example), example.truth, example.clip, own_hits=True)


def _t2a(example: Example, form: Format) -> Ask:
    return Ask(_told(example, picture=False), example.truth, replace(example.clip, frames=None))


def _i2v(example: Example, form: Format) -> Ask:
    frames = _frames(example)
    return Ask(_told(example, image=frames[0]), example.truth, example.clip, example.clip, {0: 0}, own_hits=True)


def _start_end(example: Example, form: Format) -> Ask:
    frames, last = _frames(example), form.frames - 1
    asked = _told(example, image=frames[0], last_image=frames[last])
    return Ask(asked, example.truth, example.clip, example.clip, {0: 0, last: last}, own_hits=True)


def _keyframes(example: Example, form: Format) -> Ask:
    frames = _frames(example)
    places = sorted({form.frames // 3, 2 * form.frames // 3})
    asked = _told(example, keyframes=[(place / form.fps, frames[place]) for place in places])
    return Ask(asked, example.truth, example.clip, example.clip, {p: p for p in places}, own_hits=True)


def _extension(example: Example, form: Format) -> Ask:
    shown_frames = (form.frames // 2 - 1) // 4 * 4 + 1  # whole latents of a codec of stride 4
    asked = _told(example, video=_frames(example)[:shown_frames], seconds=form.seconds)
    given = {number: number for number in range(shown_frames)}
    return Ask(asked, example.truth, example.clip, example.clip, given, own_hits=True)


def _v2a(example: Example, form: Format) -> Ask:
    asked = _told(example, video=_frames(example), video_use="add_sound")
    return Ask(asked, example.truth, example.clip, example.clip)


def _a2v(example: Example, form: Format) -> Ask:
    assert example.clip.audio is not None
    asked = _told(example, audio=torch.from_numpy(example.clip.audio))
    return Ask(asked, example.truth, example.clip, example.clip)


def _inpainting(example: Example, form: Format) -> Ask:
    """A window in the middle of the subject's path, through which it comes and goes."""
    hole = np.zeros((form.frames, form.height, form.width), bool)
    x, y = np.median(example.truth.centres, axis=0)
    half = form.height // 5
    top, left = max(0, int(y * form.height) - half), max(0, int(x * form.width) - half)
    hole[:, top : top + 2 * half, left : left + 2 * half] = True
    asked = _told(example, video=_frames(example), mask=hole)
    return Ask(asked, example.truth, example.clip, example.clip, keep=~hole)


def _removal(example: Example, form: Format) -> Ask:
    """All of the subject's place in every frame; what is asked is the background alone."""
    clean = example.with_subject(form, hidden=True)
    hole = _grown((_frames(example) != _frames(clean)).any(-1))
    prompt = f"Flat {example.truth.background} background."
    asked = {"prompt": prompt, "video": _frames(example), "mask": hole}
    return Ask(asked, replace(clean.truth, prompt=prompt), clean.clip, clean.clip, keep=~hole)


def _text_removal(example: Example, form: Format) -> Ask:
    """A subtitle, which is looked for as in any video; asked is what lies behind them."""
    film = replace(example.film, size=(round(LINES * form.width / form.height), LINES))
    lines = with_subtitles(film, film.seed).overlays
    line = replace(lines[film.seed % len(lines)], size=0.12, start=0.0, end=None)  # a clip is as long as one is read
    clean, laid = shown(film, form), np.stack(list(render(replace(film, overlays=(line,))).frames(every=FINER)))
    given, hole = brought_down(laid, form), words_over(laid, form)
    asked = _told(example, video=given, mask=hole, sound=False)
    right = _silent(clean.clip)
    return Ask(asked, clean.truth, right, right, keep=~hole, baseline=given)


def words_over(frames: np.ndarray, form: Format) -> np.ndarray:
    """(F, H, W) True in a clip of the format where words are found over `frames`."""
    hole = np.zeros((form.frames, form.height, form.width), bool)
    lumas = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    for overlay in find_overlays(lumas, 1 / form.fps, {"text"}).overlays:
        cover(hole, overlay.area, (1, 1), overlay.start_s, overlay.end_s, form.fps)
    return hole


def _recolour(example: Example, form: Format) -> Ask:
    colour = example.other_colour()
    after = example.with_subject(form, colour=colour)
    prompt = f"Change the colour of the {example.truth.colour} {example.truth.shape} to {colour}."
    return _edited(example, after, prompt)


def _delete(example: Example, form: Format) -> Ask:
    pair = make_pair(example.film, "delete")
    return _edited(example, shown(pair.after, form), pair.instruction)


def _insert(example: Example, form: Format) -> Ask:
    pair = make_pair(example.film, "insert")
    return _edited(shown(pair.before, form), example, pair.instruction)


def _background(example: Example, form: Format) -> Ask:
    pair = make_pair(example.film, "background", example.film.seed, plain_choices(example.film))
    return _edited(example, shown(pair.after, form), pair.instruction)


def _restyle(example: Example, form: Format) -> Ask:
    """Everything changes: what is held is that it is nearer to the new style than to what was given."""
    pair = make_pair(example.film, "restyle", example.film.seed, plain_choices(example.film))
    return replace(_edited(example, shown(pair.after, form), pair.instruction), baseline=_frames(example))


def _edited(before: Example, after: Example, prompt: str) -> Ask:
    asked = {"prompt": prompt, "video": _frames(before), "video_use": "edit"}
    keep = ~_grown((_frames(before) != _frames(after)).any(-1))
    return Ask(asked, replace(after.truth, prompt=prompt), after.clip, after.clip, keep=keep)


def _image_reference(example: Example, form: Format) -> Ask:
    """The subject is shown at rest and not described."""
    reference = ImageReference("@image_1", [video_tensor(_frames(example)[:1])[:, 0]])
    return _undescribed(example, reference)


def _video_reference(example: Example, form: Format) -> Ask:
    """The subject is shown moving, for as long as training shows one, and not described."""
    frames = 4 * round(REFERENCE_S * form.fps / 4) + 1
    return _undescribed(example, VideoReference("@video_1", video_tensor(_frames(example)[:frames])))


def _undescribed(example: Example, reference: ImageReference | VideoReference) -> Ask:
    words = f"{example.truth.colour} {example.truth.shape}"
    prompt = example.truth.prompt.replace(f"A {words}", reference.tag).replace(f"An {words}", reference.tag)
    return Ask({"prompt": prompt, "references": [reference]}, replace(example.truth, prompt=prompt), example.clip)


def _audio_reference(example: Example, form: Format) -> Ask:
    """The sound is heard, from its first hit on where there is one, and not described."""
    clip = example.clip
    assert clip.audio is not None
    length = round(REFERENCE_S * clip.sample_rate)
    hit = round(min(example.truth.hits, default=0.0) * clip.sample_rate)
    start = min(max(0, hit - length // 10), clip.audio.shape[1] - length)
    reference = AudioReference("@audio_1", torch.from_numpy(clip.audio[:, start : start + length].copy()))
    subject, background, *_ = example.truth.prompt.split(", ")
    prompt = f"{subject} heard as {reference.tag}, {background.removesuffix('.')}."
    asked = {"prompt": prompt, "audio_references": [reference]}
    return Ask(asked, replace(example.truth, prompt=prompt), clip, own_hits=True)


def _frames(example: Example) -> np.ndarray:
    assert example.clip.frames is not None
    return example.clip.frames


def _grown(mask: np.ndarray) -> np.ndarray:
    """By a pixel on all sides."""
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    height, width = mask.shape[1:]
    return np.logical_or.reduce([padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)])


_LOOKS = ("colour", "shape", "motion", "background", "count", "one_shot", "sharpness", "flicker")
_SOUNDS = ("sound", "loudness", "clipping")
_MEETS = ("event_f1", "event_f1_tight", "offset", "av_align")

_ALL = (
    Suite("codec", 0, _codec, ("picture_psnr", "spectrum", *_LOOKS, *_SOUNDS),
          (Target("picture_psnr", 30.0), Target("spectrum", 0.95)), way="codec"),
    Suite("t2v", 1, _t2v, _LOOKS,
          (Target("colour", 0.9), Target("shape", 0.8), Target("motion", 0.8), Target("background", 0.9))),
    Suite("t2av", 2, _t2av, (*_LOOKS, *_SOUNDS, *_MEETS),
          (Target("sound", 0.8), Target("event_f1", 0.7, of_ceiling=True), Target("offset", 80.0))),
    Suite("i2v", 3, _i2v, ("given_frames", "identity", "motion", *_SOUNDS, *_MEETS),
          (Target("given_frames", 25.0), Target("identity", 0.9))),
    Suite("v2a", 4, _v2a, (*_SOUNDS, *_MEETS), (Target("event_f1", 0.85, of_ceiling=True),), motion="bouncing"),
    Suite("t2a", 5, _t2a, _SOUNDS, (Target("sound", 0.8),)),
    Suite("start_end", 6, _start_end, ("given_frames", "identity", "motion"),
          (Target("given_frames", 25.0), Target("identity", 0.9))),
    Suite("keyframes", 7, _keyframes, ("given_frames", "identity", "motion"),
          (Target("given_frames", 25.0), Target("identity", 0.9))),
    Suite("extension", 8, _extension, ("given_frames", "position", "identity"), (Target("position", 10.0),)),
    Suite("inpainting", 9, _inpainting, ("kept", "filled"), (Target("kept", 1.0), Target("filled", 22.0))),
    Suite("removal", 10, _removal, ("kept", "filled", "count"), (Target("kept", 1.0), Target("filled", 22.0))),
    Suite("a2v", 11, _a2v, ("seen_hits_f1", "colour", "shape", "background"), motion="bouncing"),
    Suite("recolour", 12, _recolour, ("colour", "shape", "position", "rest"),
          (Target("colour", 0.75), Target("rest", 22.0))),
    Suite("delete", 13, _delete, ("count", "rest"), (Target("count", 0.75), Target("rest", 22.0))),
    Suite("insert", 14, _insert, ("colour", "shape", "rest"),
          (Target("colour", 0.75), Target("shape", 0.75), Target("rest", 22.0))),
    Suite("image_reference", 15, _image_reference, ("colour", "shape", "motion", "background"),
          (Target("colour", 0.8), Target("shape", 0.8))),
    Suite("refiner", 16, _refiner, ("gain", "gain_given", "gain_between", "sparse_gain", "picture_psnr"),
          (Target("gain", 2.0), Target("gain_given", 2.0), Target("gain_between", 2.0), Target("sparse_gain", -0.3)),
          way="refiner"),
    Suite("video_reference", 17, _video_reference, ("colour", "shape", "motion", "background"),
          (Target("colour", 0.7), Target("shape", 0.7))),
    Suite("audio_reference", 18, _audio_reference, (*_SOUNDS, "event_f1", "colour", "shape"), (Target("sound", 0.7),)),
    Suite("text_removal", 19, _text_removal, ("uncovered", "filled"),
          (Target("uncovered", 0.95), Target("filled", 22.0))),
    Suite("background", 20, _background, ("background", "colour", "shape", "position", "rest"),
          (Target("background", 0.75), Target("rest", 22.0))),
    Suite("restyle", 21, _restyle, ("restyled", "picture_psnr"),
          (Target("restyled", 0.75), Target("picture_psnr", 22.0))),
)  # fmt: skip
SUITES: Mapping[str, Suite] = {suite.name: suite for suite in _ALL}
