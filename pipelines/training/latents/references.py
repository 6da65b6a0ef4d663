"""References to show beside a clip, from the same source at other times: what stays the same is then the subject."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from model.conditioning import (
    AudioReference,
    ImageReference,
    Reference,
    VideoReference,
    encode_audio_references,
    encode_visual_references,
    tagged,
)
from model.shapes import ClipShape
from pipelines.dataset.reader import Clip, VideoFile, read_sound
from pipelines.training.data.draws import drawn_by
from pipelines.training.latents.components import Encoders
from pipelines.training.latents.spec import LatentSpec, Placed, ReferenceKind
from skyreels.storage import Storage

TAGS: dict[ReferenceKind, str] = {"image": "@image_1", "video": "@video_1", "audio": "@audio_1"}
MOST_IMAGES = 4
_SEVERAL_SHARE, _APART_SHARE = 0.5, 0.5  # of samples that show several images; of those, under a tag each
_CROP_SHARE = (0.6, 1.0)  # of each side that a reference image shows: users' pictures are of any shape

Span = tuple[float, float]


def kind_of(reference: Reference) -> ReferenceKind:
    """Under which name a sample keeps it."""
    if isinstance(reference, AudioReference):
        return "audio"
    return "image" if isinstance(reference, ImageReference) else "video"


def other_times(clip: Clip, start_s: float, seconds: float) -> list[Span]:
    """Stretches of a clip before and after its window, the longer one first; those without length are left out."""
    spans = [(0.0, start_s), (start_s + seconds, clip.seconds)]
    return sorted((span for span in spans if span[1] > span[0]), key=lambda span: span[0] - span[1])


def draw_references(
    placed: Placed,
    spans: list[Span],
    storage: Storage,
    video: VideoFile | None,
    shape: ClipShape | None,
    spec: LatentSpec,
    encoders: Encoders,
) -> list[Reference]:
    """References of each kind that is asked for and that the other times are long enough for: a clip, a sound, one or
    several images under one tag, or several images with a tag each."""
    clip, found = placed.clip, []
    for kind in spec.references:
        generator = drawn_by(spec.seed, placed.key, "reference", kind)
        if kind == "audio":
            start = _start(spans, spec.reference_seconds, generator)
            if start is not None and clip.has_audio and spec.audio:
                found.append(_heard(clip, start, storage, spec, encoders))
        elif video is not None and shape is not None:
            found += _seen(kind, spans, video, _natural_size(clip, shape), shape, spec, generator)
    return found


def encode_references(references: list[Reference], shape: ClipShape | None, encoders: Encoders) -> dict[str, Tensor]:
    """Latents by kind, without a batch dimension."""
    latents: dict[str, list[Tensor]] = {}
    for reference in references:
        if isinstance(reference, AudioReference):
            encoded = encode_audio_references([reference], encoders.audio.spec, encoders.audio_latents)
        elif shape is not None:
            encoded = encode_visual_references([reference], shape, encoders.video_latents)
        latents.setdefault(kind_of(reference), []).append(encoded[0][0])
    return {kind: torch.cat(parts, 1) for kind, parts in latents.items()}


def told_with(text: str, references: Sequence[Reference], seed: int, key: str, subject: str = "") -> str:
    """A caption that names each reference by its tag, as users do: in the place of what it shows or sounds, behind it,
    or at the end.

    What is seen is the subject of a structured caption, a motion its action, a voice or sound a line of sound; in prose
    it is the noun that begins it, where that is `subject`'s, or told in a sentence.
    """
    for reference in references:
        generator = drawn_by(seed, key, "tag", reference.tag)
        told, drawn = None, generator.random()
        if drawn < _INSTEAD_SHARE:
            told = _instead(text, reference, subject, generator)
        if told is None:
            told = _within(text, reference, generator) if drawn < _INSTEAD_SHARE + _BEHIND_SHARE else text
        text = tagged(told, reference)
    return text


# A reference beside words that tell all it shows need not be looked at, so many captions leave that to it.
_INSTEAD_SHARE, _BEHIND_SHARE = 0.45, 0.35
_LINES: dict[ReferenceKind, str] = {
    "image": r"(?m)^(?P<label>Main subject: |Subject: |Environment: )(?P<told>[^\n]*)",
    "video": r"(?m)^(?P<label>Action: |Camera: |Main subject: )(?P<told>[^\n]*)",
    "audio": r"(?P<label><dialogue>)(?P<told>[^:<\n]+)|(?:(?<=<sfx>)|(?<=<bgm>)|(?<=<singing>))[^<\n]+",
}
_KIND_OF_SUBJECT = re.compile(r"\nType: [^\n]*")
_SENTENCES: dict[ReferenceKind, tuple[str, ...]] = {
    "image": ("{before} It looks as in {tag}.", "As in {tag}: {before}", "{head} of {tag}{rest}"),
    "video": ("{before} It moves as in {tag}.", "As in {tag}: {before}", "{head} as in {tag}{rest}"),
    "audio": (
        "{before} It sounds as {tag}.",
        "With the voice or sound of {tag}: {before}",
        "{head} heard as {tag}{rest}",
    ),
}


def _instead(text: str, reference: Reference, subject: str, generator: np.random.Generator) -> str | None:
    """Without the words that the reference stands for; None: there are none that can be told apart."""
    kind = kind_of(reference)
    lines = [line for line in re.finditer(_LINES[kind], text) if "@" not in line.group()]
    if lines:
        line = lines[int(generator.integers(len(lines)))]
        behind = text[line.end() :]
        if kind == "image" and (what := _KIND_OF_SUBJECT.match(behind)):
            behind = behind[what.end() :]
        return text[: line.start()] + (line["label"] or "") + reference.tag + behind
    if kind != "image" or "\n" in text:
        return None
    named = noun_phrase(text, subject)
    return reference.tag + text[len(named) :] if named else None


def noun_phrase(text: str, subject: str) -> str:
    """The words that begin prose and name `subject`, with whose last word they end; "" where it begins otherwise."""
    noun = subject.rpartition(" ")[2]
    begins = re.match(rf"(?:an?|the)\s(?:[\w-]+\s){{0,5}}?{re.escape(noun)}\b", text, re.IGNORECASE)
    return begins[0] if noun and begins else ""


def main_subject(captions: Mapping[str, str]) -> str:
    """As the structured caption tells it, where there is one: "a blue metal ring"."""
    told = re.search(r"(?m)^Main subject: ([^\n]+)", captions.get("structured", ""))
    return told[1] if told else ""


def _within(text: str, reference: Reference, generator: np.random.Generator) -> str:
    kind = kind_of(reference)
    lines = list(re.finditer(_LINES[kind], text))
    if lines:
        end = lines[int(generator.integers(len(lines)))].end()
        named = (f" ({reference.tag})", f", as in {reference.tag}", f" {reference.tag}")[int(generator.integers(3))]
        return text[:end] + named + text[end:]
    if "\n" in text or not text:
        return text
    head, stop, rest = text.partition(", ") if ", " in text else text.partition(".")
    form = _SENTENCES[kind][int(generator.integers(len(_SENTENCES[kind])))]
    return form.format(before=text, tag=reference.tag, head=head, rest=stop + rest)


def _heard(clip: Clip, start_s: float, storage: Storage, spec: LatentSpec, encoders: Encoders) -> Reference:
    codec = encoders.audio.spec
    samples = round(spec.reference_seconds * codec.sample_rate)
    sound = read_sound(storage, clip, start_s, samples, sample_rate=codec.sample_rate, stereo=codec.stereo)
    return AudioReference(TAGS["audio"], sound)


def _seen(
    kind: ReferenceKind,
    spans: list[Span],
    video: VideoFile,
    size: tuple[int, int],
    shape: ClipShape,
    spec: LatentSpec,
    generator: np.random.Generator,
) -> list[Reference]:
    """A short clip whole; of pictures, a part."""
    if kind == "video":
        frames = shape.video.nearest_frames(spec.reference_seconds * spec.fps)
        start = _start(spans, frames / spec.fps, generator)
        if start is None:
            return []
        return [VideoReference(TAGS[kind], video.read(start + np.arange(frames) / spec.fps, *size))]
    several = generator.random() < _SEVERAL_SHARE
    starts = [
        _start(spans, 1 / spec.fps, generator)
        for _ in range(int(generator.integers(2, MOST_IMAGES + 1)) if several else 1)
    ]
    times = sorted(start for start in starts if start is not None)
    if not times:
        return []
    images = [part_of(pixels, generator) for pixels in video.read(times, *size).unbind(1)]
    if generator.random() < _APART_SHARE:
        return [ImageReference(f"@image_{number}", (image,)) for number, image in enumerate(images, 1)]
    return [ImageReference(TAGS[kind], tuple(images))]


def part_of(pixels: Tensor, generator: np.random.Generator) -> Tensor:
    """A part of a picture (3, H, W), in any shape."""
    sides, shares = np.array(pixels.shape[-2:]), generator.uniform(*_CROP_SHARE, 2)
    rows, columns = (int(side) for side in np.maximum(1, (sides * shares).round()))
    top, left = (int(generator.integers(room + 1)) for room in sides - (rows, columns))
    return pixels[:, top : top + rows, left : left + columns]


def _natural_size(clip: Clip, shape: ClipShape) -> tuple[int, int]:
    """(height, width) of the clip scaled to the short side of what is trained on: no larger than it is used."""
    scale = min(shape.height, shape.width) / min(clip.height, clip.width)
    return max(1, round(clip.height * scale)), max(1, round(clip.width * scale))


def _start(spans: list[Span], seconds: float, generator: np.random.Generator) -> float | None:
    """Where a stretch of that length begins in the longest span; None where it has no room."""
    if not spans or spans[0][1] - spans[0][0] < seconds:
        return None
    return float(generator.uniform(spans[0][0], spans[0][1] - seconds))
