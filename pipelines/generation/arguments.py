"""A request as keyword arguments of a `Generator` call."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from model.conditioning import AudioReference, ImageReference, Reference, VideoReference
from model.generator import Generator
from model.media import image_tensor, video_tensor
from pipelines.generation.media import MediaReader
from pipelines.generation.request import GenerationRequest, MediaFile, RequestError

# References also go to the prompt encoder, which wants to see more than a small clip shows.
_IMAGE_SIDE, _VIDEO_SIDE = 512, 256


def call_arguments(generator: Generator, request: GenerationRequest, reader: MediaReader) -> dict[str, Any]:
    """All but prompts, seed and callback; media are read and brought to the clip's size and rates."""
    defaults = generator.components.config.generation
    fps = request.fps or defaults.fps
    width, height = _size(generator, request, reader)
    by_field: dict[str, list[MediaFile]] = {}
    for file in request.files():
        by_field.setdefault(file.field, []).append(file)

    def pictures(file: MediaFile, *, as_mask: bool = False) -> Any:
        return reader.pictures(file, (width, height), fps, as_mask=as_mask)

    def only(name: str) -> MediaFile | None:
        return next(iter(by_field.get(name, [])), None)

    image, last, video, mask, audio = map(only, ("image", "last_image", "video", "mask", "audio"))
    frames = None if video is None else pictures(video)
    marked = None
    if mask is not None and video is not None:
        marked = pictures(mask, as_mask=True)
        _check_mask(mask, video, marked, frames, reader)
    keyframes = zip(request.keyframes, by_field.get("keyframes", []), strict=True)
    references = _references(generator, by_field, reader, (width, height), fps)
    return {
        "image": None if image is None else pictures(image)[0],
        "last_image": None if last is None else pictures(last)[0],
        "keyframes": [(keyframe.seconds, pictures(file)[0]) for keyframe, file in keyframes],
        "video": frames,
        "video_use": request.video_use,
        "mask": marked,
        "audio": None if audio is None else _sound(generator, audio, reader),
        "references": [reference for reference in references if not isinstance(reference, AudioReference)],
        "audio_references": [reference for reference in references if isinstance(reference, AudioReference)],
        "sound": request.sound and not request.still,
        "picture": request.picture,
        "seconds": 1 / fps if request.still else request.seconds,
        "size": (height, width),
        "fps": request.fps,
        "num_inference_steps": request.steps,
        "guidance_scale": request.guidance_scale,
        "audio_guidance_scale": request.audio_guidance_scale,
        "reference_guidance_scale": request.reference_guidance_scale,
        "cross_modal_guidance_scale": request.cross_modal_guidance_scale,
        "guidance_rescale": request.guidance_rescale,
        "refine": request.refine,
    }


def _size(generator: Generator, request: GenerationRequest, reader: MediaReader) -> tuple[int, int]:
    """(width, height): as asked, else the default area in the shape of the first picture given, in whole tokens.

    A video that is smaller than the default stays as small.
    """
    if request.width is not None and request.height is not None:
        return request.width, request.height
    parts = generator.components
    defaults, stride, patch = parts.config.generation, parts.video_codec.spec.stride, parts.transformer.config.patch
    shaping = next((f for f in request.files() if f.field in ("video", "image", "keyframes", "last_image")), None)
    if shaping is None:
        return defaults.width, defaults.height
    width, height = reader.size(shaping)
    scale = math.sqrt(defaults.width * defaults.height / (width * height))
    if shaping.field == "video":
        scale = min(scale, 1.0)
    steps = (stride[2] * patch[2], stride[1] * patch[1])
    sides = [max(1, round(side * scale / step)) * step for side, step in zip((width, height), steps, strict=True)]
    return sides[0], sides[1]


def _check_mask(mask: MediaFile, video: MediaFile, marked: Any, frames: Any, reader: MediaReader) -> None:
    if reader.size(mask) != reader.size(video):
        sizes = ["{}x{}".format(*reader.size(file)) for file in (mask, video)]
        raise RequestError("mask", f"{mask.path} is {sizes[0]} pixels and the video {sizes[1]}: draw it at that size")
    if len(marked) not in (1, len(frames)):
        counts = f"{len(marked)} frames and the video {len(frames)}"
        raise RequestError("mask", f"{mask.path} has {counts}: give 1 or as many")
    if not marked.any():
        raise RequestError("mask", f"{mask.path} is black everywhere, so nothing would be made: paint that part white")


def _references(
    generator: Generator,
    by_field: Mapping[str, list[MediaFile]],
    reader: MediaReader,
    size: tuple[int, int],
    fps: float,
) -> list[Reference]:
    def pictures(file: MediaFile, least: int) -> Any:
        return reader.pictures(file, (max(size[0], least), max(size[1], least)), fps)

    references: list[Reference] = []
    for name, files in by_field.items():
        if not name.startswith("references "):
            continue
        tag, kind = name.removeprefix("references "), reader.kind(files[0])
        if kind == "audio":
            references.append(AudioReference(tag, _sound(generator, files[0], reader)))
        elif kind == "video":
            references.append(VideoReference(tag, video_tensor(pictures(files[0], _VIDEO_SIDE))))
        else:
            images = [image_tensor(pictures(file, _IMAGE_SIDE)[0]) for file in files]
            references.append(ImageReference(tag, images))
    return references


def _sound(generator: Generator, file: MediaFile, reader: MediaReader) -> Tensor:
    """(channels, samples) as the model's codec takes it."""
    codec = generator.components.audio_codec
    if codec is None:
        raise RequestError(file.field, f"{file.path} is sound, and this model neither hears nor makes any")
    return torch.from_numpy(reader.sound(file, codec.spec.sample_rate, 2 if codec.spec.stereo else 1))
