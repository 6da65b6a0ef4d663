"""References to show beside a clip, from the same source at other times: what stays the same is then the subject."""

import numpy as np
from torch import Tensor

from model.conditioning import (
    AudioReference,
    ImageReference,
    Reference,
    VideoReference,
    encode_audio_references,
    encode_visual_references,
)
from model.shapes import ClipShape
from pipelines.dataset.reader import Clip, VideoFile, read_sound
from pipelines.training.data.draws import drawn_by
from pipelines.training.latents.components import Encoders
from pipelines.training.latents.spec import LatentSpec, Placed, ReferenceKind
from skyreels.storage import Storage

TAGS: dict[ReferenceKind, str] = {"image": "@image_1", "video": "@video_1", "audio": "@audio_1"}
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
    """One reference of each kind that is asked for and that the other times are long enough for."""
    clip, found = placed.clip, []
    for kind in spec.references:
        generator = drawn_by(spec.seed, placed.key, "reference", kind)
        if kind == "audio":
            start = _start(spans, spec.reference_seconds, generator)
            if start is not None and clip.has_audio and spec.audio:
                found.append(_heard(clip, start, storage, spec, encoders))
        elif video is not None and shape is not None:
            frames = 1 if kind == "image" else shape.video.nearest_frames(spec.reference_seconds * spec.fps)
            start = _start(spans, frames / spec.fps, generator)
            if start is not None:
                pixels = video.read(start + np.arange(frames) / spec.fps, *_natural_size(clip, shape))
                found.append(_seen(kind, pixels, generator))
    return found


def encode_references(references: list[Reference], shape: ClipShape | None, encoders: Encoders) -> dict[str, Tensor]:
    """Latents by kind, without a batch dimension."""
    latents: dict[str, Tensor] = {}
    for reference in references:
        if isinstance(reference, AudioReference):
            latents["audio"] = encode_audio_references([reference], encoders.audio.spec, encoders.audio_latents)[0][0]
        elif shape is not None:
            encoded = encode_visual_references([reference], shape, encoders.video_latents)
            latents[kind_of(reference)] = encoded[0][0]
    return latents


def _heard(clip: Clip, start_s: float, storage: Storage, spec: LatentSpec, encoders: Encoders) -> Reference:
    codec = encoders.audio.spec
    samples = round(spec.reference_seconds * codec.sample_rate)
    sound = read_sound(storage, clip, start_s, samples, sample_rate=codec.sample_rate, stereo=codec.stereo)
    return AudioReference(TAGS["audio"], sound)


def _seen(kind: ReferenceKind, pixels: Tensor, generator: np.random.Generator) -> Reference:
    """A short clip whole; of a picture, a part."""
    if kind == "video":
        return VideoReference(TAGS[kind], pixels)
    sides, shares = np.array(pixels.shape[-2:]), generator.uniform(*_CROP_SHARE, 2)
    rows, columns = (int(side) for side in np.maximum(1, (sides * shares).round()))
    top, left = (int(generator.integers(room + 1)) for room in sides - (rows, columns))
    return ImageReference(TAGS[kind], (pixels[:, 0, top : top + rows, left : left + columns],))


def _natural_size(clip: Clip, shape: ClipShape) -> tuple[int, int]:
    """(height, width) of the clip scaled to the short side of what is trained on: no larger than it is used."""
    scale = min(shape.height, shape.width) / min(clip.height, clip.width)
    return max(1, round(clip.height * scale)), max(1, round(clip.width * scale))


def _start(spans: list[Span], seconds: float, generator: np.random.Generator) -> float | None:
    """Where a stretch of that length begins in the longest span; None where it has no room."""
    if not spans or spans[0][1] - spans[0][0] < seconds:
        return None
    return float(generator.uniform(spans[0][0], spans[0][1] - seconds))
