"""One clip to one latent sample. All that a task is given is encoded on its own, from pixels that hold nothing else:
a causal codec carries what came before, and what lies beside, into every latent."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.conditioning import Reference, VideoReference, blank, latent_keep_mask, tagged
from model.config import RefinerConfig
from model.media import cover_mask
from model.network.refiner import enlarged_pixels, refined_clip, refined_source
from model.shapes import ClipShape
from pipelines.dataset.reader import (
    CAPTION_FORMS,
    Times,
    VideoFile,
    member_bytes,
    open_video,
    read_image,
    read_sound,
)
from pipelines.training.data.draws import drawn_by
from pipelines.training.latents.components import Encoders
from pipelines.training.latents.masks import draw_keep_mask, draw_refined_mask
from pipelines.training.latents.pairs import INSTRUCTION, keep_mask_at, read_track
from pipelines.training.latents.references import (
    TAGS,
    draw_references,
    encode_references,
    kind_of,
    main_subject,
    other_times,
    told_with,
)
from pipelines.training.latents.sample import IMAGE_AND_AUDIO, Extension, LatentSample, Region
from pipelines.training.latents.spec import LatentSpec, Placed, clip_shape, window_seconds
from skyreels.storage import Storage

_PIXELS_AT_ONCE = 1 << 22  # of stills in one batch


def encode_sample(placed: Placed, storage: Storage, spec: LatentSpec, encoders: Encoders) -> LatentSample:
    """The sample of a clip, picture, sound or pair. Raises MediaError where its files cannot be read."""
    encode = {"video": _encode_video, "image": _encode_image, "audio": _encode_sound, "pair": _encode_pair}
    return encode[placed.bucket.kind](placed, storage, spec, encoders)


def frame_times(start_s: float, frames: int, fps: float) -> Times:
    """Seconds at which the frames of a window are shown."""
    times: Times = start_s + np.arange(frames) / fps
    return times


def encode_stills(pixels: Tensor, shape: ClipShape, encoders: Encoders) -> Tensor:
    """(3, F, H, W) -> (C, T, h, w): the last frame of each latent, encoded alone as an image."""
    last = [shape.video.frame_span(latent)[-1] for latent in range(shape.latent_frames)]
    images = pixels[:, last].transpose(0, 1)[:, :, None]
    batch = max(1, _PIXELS_AT_ONCE // (shape.height * shape.width))
    latents = torch.cat([encoders.video_latents(part) for part in images.split(batch)])
    return latents[:, :, 0].transpose(0, 1)


def encode_region(pixels: Tensor, keep_mask: Tensor, encoders: Encoders) -> Region:
    """(3, F, H, W) with the pixels where `keep_mask` (1, F, H, W) is False black before they are encoded."""
    keep = keep_mask[None]
    latents = encoders.video_latents(blank(pixels[None], keep))[0]
    return Region(latents, latent_keep_mask(keep, encoders.video.spec)[0].bool())


def encode_extensions(
    pixels: Tensor, key: str, shape: ClipShape, spec: LatentSpec, encoders: Encoders
) -> Iterator[Extension]:
    """Beginnings and endings of (3, F, H, W) in turn, each of as many latent frames as the key draws."""
    if shape.latent_frames < 2:
        return
    generator = drawn_by(spec.seed, key, "extensions")
    for number in range(spec.extensions):
        frames = shape.video.frames_of(int(generator.integers(1, shape.latent_frames)))
        at_end = number % 2 == 1
        given = pixels[:, -frames:] if at_end else pixels[:, :frames]
        yield Extension(encoders.video_latents(given[None])[0], at_end)


def encode_texts(
    placed: Placed, seconds: float, references: Sequence[Reference], spec: LatentSpec, encoders: Encoders
) -> dict[str, Tensor]:
    """Hidden states of the captions that the clip has, as they are true of a window of `seconds`, by form; and of one
    form, drawn by the clip's key, read with each reference."""
    asked: frozenset[str] = frozenset(spec.captions)
    captions = placed.clip.captions_between(placed.start_s, placed.start_s + seconds)
    said: dict[str, str] = {form: captions[form] for form in CAPTION_FORMS if form in asked and form in captions}
    texts: dict[str, Tensor] = {form: encoders.text_states(text) for form, text in said.items()}
    subject = main_subject(captions)
    shown: dict[str, list[Reference]] = {}
    for reference in references:
        shown.setdefault(kind_of(reference), []).append(reference)
    if {"image", "audio"} <= shown.keys():
        shown[IMAGE_AND_AUDIO] = [*shown["image"], *shown["audio"]]
    for kind, together in shown.items():
        form = list(said)[int(drawn_by(spec.seed, placed.key, "told", kind).integers(len(said)))]
        told = told_with(said[form], together, spec.seed, placed.key, subject)
        texts[f"{form}+{kind}"] = encoders.text_states(told, together)
    return texts


def _encode_video(placed: Placed, storage: Storage, spec: LatentSpec, encoders: Encoders) -> LatentSample:
    clip, shape = placed.clip, _shape(placed, spec, encoders)
    video = open_video(storage, clip)
    pixels = video.read(frame_times(placed.start_s, shape.frames, shape.fps), shape.height, shape.width)
    latents = encoders.video_latents(pixels[None])
    spans = other_times(clip, placed.start_s, shape.seconds)
    references = draw_references(placed, spans, storage, video, shape, spec, encoders)
    return LatentSample(
        key=placed.key,
        kind="video",
        bucket=placed.bucket.name,
        shape=shape,
        video=latents[0],
        audio=_sound(placed, shape.audio_samples, storage, spec, encoders),
        texts=encode_texts(placed, shape.seconds, references, spec, encoders),
        stills=encode_stills(pixels, shape, encoders) if spec.stills else None,
        extensions=tuple(encode_extensions(pixels, placed.key, shape, spec, encoders)),
        regions=tuple(_regions(pixels, placed, spec, encoders)),
        references=encode_references(references, shape, encoders),
        **_refined(video, placed, shape, spec, encoders),
        enlarged=_enlarged(latents, shape, spec, encoders),
    )


def _encode_image(placed: Placed, storage: Storage, spec: LatentSpec, encoders: Encoders) -> LatentSample:
    shape = _shape(placed, spec, encoders)
    factor = spec.refined.space_factor if spec.refined else 1
    sizes = [(shape.height * scale, shape.width * scale) for scale in (1, factor)]
    if placed.clip.kind == "video":
        video = open_video(storage, placed.clip)
        pictures = [video.read([placed.start_s], *size) for size in sizes]
    else:
        pictures = [read_image(storage, placed.clip, *size)[:, None] for size in sizes]
    fine = dataclasses.replace(shape, height=sizes[1][0], width=sizes[1][1])
    large = encoders.video_latents(pictures[1][None])[0] if spec.refined else None
    latents = encoders.video_latents(pictures[0][None])
    return LatentSample(
        key=placed.key,
        kind="image",
        bucket=placed.bucket.name,
        shape=shape,
        video=latents[0],
        texts=encode_texts(placed, 0.0, [], spec, encoders),
        regions=tuple(_regions(pictures[0], placed, spec, encoders)),
        large=large,
        refined=large,
        enlarged=_enlarged(latents, shape, spec, encoders),
        refined_regions=tuple(_refined_regions(pictures[1], placed, fine, fine, spec, encoders)),
    )


def _encode_sound(placed: Placed, storage: Storage, spec: LatentSpec, encoders: Encoders) -> LatentSample:
    seconds = window_seconds(placed.bucket.seconds, spec, encoders.video.spec)
    samples = round(seconds * encoders.audio.spec.sample_rate)
    spans = other_times(placed.clip, placed.start_s, seconds)
    references = draw_references(placed, spans, storage, None, None, spec, encoders)
    return LatentSample(
        key=placed.key,
        kind="audio",
        bucket=placed.bucket.name,
        shape=None,
        audio=_sound(placed, samples, storage, spec, encoders),
        texts=encode_texts(placed, seconds, references, spec, encoders),
        references=encode_references(references, None, encoders),
    )


def _encode_pair(placed: Placed, storage: Storage, spec: LatentSpec, encoders: Encoders) -> LatentSample:
    """The clip after the edit, with the clip before it as reference and, where the edit has a place, as region."""
    clip, shape = placed.clip, _shape(placed, spec, encoders)
    times = frame_times(placed.start_s, shape.frames, shape.fps)
    before, after = (open_video(storage, clip, f"{role}.mp4") for role in ("before", "after"))
    old, new = (video.read(times, shape.height, shape.width) for video in (before, after))
    keep = keep_mask_at(json.loads(member_bytes(storage, clip, "edit.json")), before.shown_at(times))
    regions = () if keep is None else (encode_region(old, cover_mask(keep, shape.height, shape.width), encoders),)
    reference = VideoReference(TAGS["video"], old)
    instruction = clip.captions[INSTRUCTION]
    return LatentSample(
        key=placed.key,
        kind="pair",
        bucket=placed.bucket.name,
        shape=shape,
        video=encoders.video_latents(new[None])[0],
        audio=_sound(placed, shape.audio_samples, storage, spec, encoders),
        texts={
            INSTRUCTION: encoders.text_states(instruction),
            f"{INSTRUCTION}+video": encoders.text_states(tagged(instruction, reference), [reference]),
        },
        regions=regions,
        references={"video": encoders.video_latents(old[None])[0]},
    )


def _shape(placed: Placed, spec: LatentSpec, encoders: Encoders) -> ClipShape:
    """The extent of a sample with a picture; without audio where the clip has none."""
    audio = encoders.audio.spec if placed.clip.has_audio else None
    shape = clip_shape(placed.bucket, spec, encoders.video.spec, audio)
    assert shape is not None
    return shape


def _sound(placed: Placed, samples: int, storage: Storage, spec: LatentSpec, encoders: Encoders) -> Tensor | None:
    """(Ca, L) of the window; None where the clip is silent."""
    if not (spec.audio and placed.clip.has_audio):
        return None
    codec = encoders.audio.spec
    read = read_track if placed.clip.kind == "pair" else read_sound
    rate, stereo = codec.sample_rate, codec.stereo
    waveform = read(storage, placed.clip, placed.start_s, samples, sample_rate=rate, stereo=stereo)
    return encoders.audio_latents(waveform[None])[0]


def _regions(pixels: Tensor, placed: Placed, spec: LatentSpec, encoders: Encoders) -> Iterator[Region]:
    generator = drawn_by(spec.seed, placed.key, "regions")
    for _ in range(spec.regions_of(placed.bucket.kind)):
        yield encode_region(pixels, draw_keep_mask(generator, *pixels.shape[1:]), encoders)


def _refined(
    video: VideoFile, placed: Placed, shape: ClipShape, spec: LatentSpec, encoders: Encoders
) -> dict[str, Any]:
    """`large` and `refined`, the same window at the refiner's size, at the base's frame rate and at the refiner's; and
    regions of the latter."""
    if spec.refined is None:
        return {}
    fine = refined_clip(shape, RefinerConfig(spec.refined.space_factor, spec.refined.time_factor))
    pixels = video.read(frame_times(placed.start_s, fine.frames, fine.fps), fine.height, fine.width)
    every = pixels[:, :: spec.refined.time_factor]
    large = dataclasses.replace(shape, height=fine.height, width=fine.width)
    return {
        "large": encoders.video_latents(every[None])[0],
        "refined": encoders.video_latents(pixels[None])[0],
        "refined_regions": tuple(_refined_regions(every, placed, large, fine, spec, encoders)),
    }


def _enlarged(latents: Tensor, shape: ClipShape, spec: LatentSpec, encoders: Encoders) -> Tensor | None:
    """Of the base's latents (1, C, T, h, w), what a refiner is shown that enlarges pixels."""
    if spec.refined is None or spec.refined.enlarges != "pixels":
        return None
    fine = refined_clip(shape, RefinerConfig(spec.refined.space_factor, spec.refined.time_factor))
    return enlarged_pixels(latents, fine, encoders.video_pixels, encoders.video_latents)[0]


def _refined_regions(
    pixels: Tensor, placed: Placed, large: ClipShape, fine: ClipShape, spec: LatentSpec, encoders: Encoders
) -> Iterator[Region]:
    """What the refiner is shown of a source, `pixels` (3, F, H, W) at its size: a source has the base's frame rate."""
    generator = drawn_by(spec.seed, placed.key, "refined regions")
    for _ in range(spec.regions_of(placed.bucket.kind) if spec.refined else 0):
        keep = draw_refined_mask(generator, large)
        _, _, shown = refined_source(pixels[None], keep[None], fine, encoders.video_latents)
        yield Region(shown.latents[0], shown.keep_mask[0].bool())
