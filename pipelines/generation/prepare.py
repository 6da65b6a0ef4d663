"""A request with its files to a prepared call: media read in a sandbox, at the clip's size and rates."""

import math
import secrets
from dataclasses import dataclass, replace
from dataclasses import fields as fields_of
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.conditioning import AudioReference, ImageReference, Reference, VideoReference
from model.config import SamplingConfig
from model.generation.enhancing import Write, by_rules
from model.generation.prepared import GeneratorSpec, Media, Prepared
from model.generation.prepared import prepare as prepare_call
from model.media import image_tensor, packed, video_tensor
from pipelines.generation.media import MediaReader
from pipelines.generation.removal import region_mask, with_regions
from pipelines.generation.request import Files, GenerationRequest, MediaFile, RequestError

# References also go to the prompt encoder, which wants to see more than a small clip shows.
_IMAGE_SIDE, _VIDEO_SIDE = 512, 256


def prepare(
    request: GenerationRequest,
    files: Files,
    spec: GeneratorSpec,
    reader: MediaReader,
    enhance: Write | None = by_rules,
) -> Prepared:
    """Check a request as a whole, read what it names and leave nothing to look up; a seed is drawn where none is given.

    Of a clip in windows (`windows_of`) it is the first one.

    `spec` is of the model that will render; `enhance` puts the prompt into a form that it knows. Raises ValueError
    (RequestError where a field is to blame).
    """
    request.check()
    named = request.files(files)
    reader.check(named, still=request.still)
    request = with_regions(request, files, reader)
    fps = request.fps or spec.config.generation.fps
    reading = _Reading(request, spec, reader, named, _size(spec, request, named, reader), fps)
    references = reading.references()
    settings = {field.name for field in fields_of(SamplingConfig)} - {field.name for field in fields_of(Media)}
    media = reading.media()
    given = media["video"] if request.in_windows else None
    if given is not None:  # each window is given its own part; the call is checked with the last picture
        media["video"] = given[-1:]
    prepared = prepare_call(
        spec,
        request.prompt,
        request.negative_prompt,
        **media,
        references=[reference for reference in references if not isinstance(reference, AudioReference)],
        audio_references=[reference for reference in references if isinstance(reference, AudioReference)],
        seconds=1 / fps if request.still else request.seconds_at_once,
        size=(reading.size[1], reading.size[0]),
        fps=request.fps,
        refine=request.refine,
        enhance=enhance,
        seed=secrets.randbits(32) if request.seed is None else request.seed,
        **{name: getattr(request, name) for name in settings if hasattr(request, name)},
    )
    if given is not None:
        prepared = replace(prepared, media=replace(prepared.media, video=packed(given)))
    return replace(prepared, remarks=(*prepared.remarks, *reading.remarks()))


@dataclass(frozen=True)
class _Reading:
    """A request's files, to be read as the model takes them; `size` is (width, height)."""

    request: GenerationRequest
    spec: GeneratorSpec
    reader: MediaReader
    files: list[MediaFile]
    size: tuple[int, int]
    fps: float

    def media(self) -> dict[str, Any]:
        """Fields of `Media`."""
        given: dict[str, Any] = {field.name: getattr(self.request, field.name) for field in fields_of(Media)}
        given["sound"] = self.request.sound and not self.request.still
        images = (self._pictures(file)[0] for file in self.files if file.field == "keyframes")
        given["keyframes"] = [(at.seconds, image) for at, image in zip(self.request.keyframes, images, strict=True)]
        for file in self.files:  # the video comes before its mask and its sound
            if file.tag is None and file.field != "keyframes":
                given[file.field] = self._read(file, given["video"])
        if self.request.regions:
            assert self._video is not None  # the request's own check
            seen = given["video"].shape[:3]
            given["mask"] = region_mask(self.request.regions, self.reader.size(self._video), seen, self.fps)
        if self._keeps_sound:
            given["audio"] = self._own_sound() if self._has_sound else None
            given["sound"] = given["audio"] is not None
        return given

    def remarks(self) -> list[str]:
        """What becomes of the media that its sender may not expect."""
        lost = self._keeps_sound and self._has_sound and self.spec.audio is None
        return ["the video's sound is lost: this model has no codec for any"] if lost else []

    @property
    def _keeps_sound(self) -> bool:
        """What is laid over a picture is not heard: the video sounds as before, unless the request says otherwise."""
        return bool(self.request.remove) and self.request.audio is None and self.request.sound

    @property
    def _has_sound(self) -> bool:
        return self._video is not None and self.reader.holds(self._video, "audio")

    def _own_sound(self) -> Tensor | None:
        """Of the video, from its first picture on."""
        assert self._video is not None
        if self.spec.audio is None:
            return None
        return self._sound(self._video, self.reader.starts(self._video, "video"))

    def _read(self, file: MediaFile, frames: Any) -> Any:
        """By what the field takes; `frames` are those of the video."""
        if file.field == "mask":
            return self._mask(file, frames)
        if "audio" in file.kinds:
            return self._sound(file, self._sound_start(file, frames))
        pictures = self._pictures(file)
        return pictures if "video" in file.kinds else pictures[0]

    def references(self) -> list[Reference]:
        """One for each tag."""
        by_tag: dict[str, list[MediaFile]] = {}
        for file in self.files:
            if file.tag is not None:
                by_tag.setdefault(file.tag, []).append(file)
        return [self._reference(tag, files) for tag, files in by_tag.items()]

    def _reference(self, tag: str, files: list[MediaFile]) -> Reference:
        kind = self.reader.kind(files[0])
        if kind == "audio":
            return AudioReference(tag, self._sound(files[0], self.reader.starts(files[0], "audio")))
        if kind == "video":
            return VideoReference(tag, video_tensor(self._pictures(files[0], _VIDEO_SIDE)))
        return ImageReference(tag, [image_tensor(self._pictures(file, _IMAGE_SIDE)[0]) for file in files])

    def _pictures(self, file: MediaFile, least: int = 1) -> np.ndarray:
        return self.reader.pictures(file, (max(self.size[0], least), max(self.size[1], least)), self.fps)

    def _mask(self, mask: MediaFile, frames: np.ndarray) -> np.ndarray:
        video = self._video
        assert video is not None  # `Media` refuses a mask without one
        marked = self.reader.pictures(mask, self.size, self.fps, as_mask=True)
        if self.reader.size(mask) != self.reader.size(video):
            sizes = ["{}x{}".format(*self.reader.size(file)) for file in (mask, video)]
            message = f"{mask.path} is {sizes[0]} pixels and the video {sizes[1]}: draw it at that size"
            raise RequestError("mask", message)
        if len(marked) not in (1, len(frames)):
            counts = f"{len(marked)} frames and the video {len(frames)}"
            raise RequestError("mask", f"{mask.path} has {counts}: give 1 or as many")
        if not marked.any():
            message = f"{mask.path} is black everywhere, so nothing would be made: paint that part white"
            raise RequestError("mask", message)
        return marked

    def _sound(self, file: MediaFile, start_s: float | None) -> Tensor:
        """(channels, samples) as the model's codec takes it."""
        codec = self.spec.audio
        if codec is None:
            raise RequestError(file.where, f"{file.path} is sound, and this model neither hears nor makes any")
        return torch.from_numpy(self.reader.sound(file, codec.sample_rate, 2 if codec.stereo else 1, start_s))

    def _sound_start(self, sound: MediaFile, frames: np.ndarray | None) -> float | None:
        """On the sound file's clock, when the result starts: of the video's own sound, with its first kept picture.

        None for another file: with its own beginning.
        """
        video = self._video
        if video is None or frames is None or not video.path.samefile(sound.path):
            return None
        start_s = self.reader.starts(video, "video")
        if self.request.mask is not None or self.request.video_use not in ("extend", "lead_up"):
            return start_s
        if self.request.video_use == "lead_up":
            message = f"{sound.path} sounds where the result ends: give the sound of the whole result, or none"
            raise RequestError("audio", message)
        # Of a video to extend the last whole latents are kept.
        return start_s + (len(frames) - self.spec.video.whole_frames(len(frames))) / self.fps

    @property
    def _video(self) -> MediaFile | None:
        return next((file for file in self.files if file.field == "video"), None)


def _size(
    spec: GeneratorSpec, request: GenerationRequest, files: list[MediaFile], reader: MediaReader
) -> tuple[int, int]:
    """(width, height): as asked, else the default area in the shape of the first picture given, in whole tokens.

    A video that is smaller than the default stays as small.
    """
    if request.width is not None and request.height is not None:
        return request.width, request.height
    usual, stride, patch = spec.config.generation, spec.video.stride, spec.patch
    shaping = next((file for file in files if file.field in ("video", "image", "keyframes", "last_image")), None)
    if shaping is None:
        return usual.width, usual.height
    width, height = reader.size(shaping)
    scale = math.sqrt(usual.width * usual.height / (width * height))
    if shaping.field == "video":
        scale = min(scale, 1.0)
    steps = (stride[2] * patch[2], stride[1] * patch[1])
    sides = [max(1, round(side * scale / step)) * step for side, step in zip((width, height), steps, strict=True)]
    return sides[0], sides[1]
