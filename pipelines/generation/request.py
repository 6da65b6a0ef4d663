"""What can be asked of a generator, with media as files; the same for a command line and a server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field, NonNegativeFloat

from model.conditioning import Reference, check_tags
from model.generation.prompts import Shot, StructuredPrompt, render_prompt
from model.generation.requests import MediaRequest, VideoUse
from skyreels.config import Config

Kind = Literal["image", "video", "audio"]


class RequestError(ValueError):
    """What is wrong with a request, in which field, and what to do."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class Keyframe(Config):
    """An image that the clip passes through at `seconds`."""

    seconds: float = Field(ge=0)
    image: Path


class MediaFile(NamedTuple):
    """A file of a request, the field that names it, and what it may hold; the first kind that it holds counts."""

    field: str
    path: Path
    kinds: tuple[Kind, ...]


class GenerationRequest(Config):
    """One clip. What is left out takes the model's defaults.

    Media are paths to local files. `mask` is white where to generate and black where to keep, of the video's size, one
    picture or as many as the video has. Files under one tag of `references` are a clip, a sound, or several images of
    one subject. `still` asks for one picture without sound. `seconds` is the length of the whole result. A
    `reference_guidance_scale` is of all references, or by tag; the video of an edit is called `source`.
    """

    prompt: str | StructuredPrompt | tuple[Shot, ...]
    negative_prompt: str = ""
    image: Path | None = None
    last_image: Path | None = None
    keyframes: tuple[Keyframe, ...] = ()
    video: Path | None = None
    video_use: VideoUse = "extend"
    mask: Path | None = None
    audio: Path | None = None
    references: dict[str, tuple[Path, ...]] = Field(default_factory=dict)
    sound: bool = True
    picture: bool = True
    still: bool = False
    seconds: float | None = Field(None, gt=0, le=60)
    width: int | None = Field(None, ge=1, le=8192)
    height: int | None = Field(None, ge=1, le=8192)
    fps: float | None = Field(None, gt=0, le=120)
    seed: int | None = Field(None, ge=0, lt=2**63)
    steps: int | None = Field(None, ge=1, le=1000)
    guidance_scale: float | None = Field(None, ge=0)
    audio_guidance_scale: float | None = Field(None, ge=0)
    reference_guidance_scale: NonNegativeFloat | dict[str, NonNegativeFloat] | None = None
    cross_modal_guidance_scale: float | None = Field(None, ge=0)
    guidance_rescale: float | None = Field(None, ge=0, le=1)
    refine: bool = False

    def check(self) -> None:
        """Raise ValueError where the fields contradict each other; nothing is read."""
        if (self.width is None) != (self.height is None):
            raise RequestError("size", "give both width and height, or neither")
        if self.still and self.seconds is not None:
            raise RequestError("seconds", "one picture has no length: leave it out, or ask for a video")
        if self.still and not self.picture:
            raise RequestError("picture", "it is switched off, and one picture is asked for")
        empty = [tag for tag, paths in self.references.items() if not paths]
        if empty:
            raise RequestError("references", f"{', '.join(empty)} has no file")
        check_tags(render_prompt(self.prompt), [Reference(tag) for tag in self.references])
        MediaRequest(
            image=self.image,
            last_image=self.last_image,
            keyframes=[(keyframe.seconds, keyframe.image) for keyframe in self.keyframes],
            video=self.video,
            video_use=self.video_use,
            mask=self.mask,
            audio=self.audio,  # type: ignore[arg-type]  # only what is given together is looked at
            sound=self.sound,
            picture=self.picture,
        )

    def files(self) -> Iterator[MediaFile]:
        """Every file, those that the clip's shape follows first."""
        if self.video is not None:
            yield MediaFile("video", self.video, ("video", "image"))
        if self.image is not None:
            yield MediaFile("image", self.image, ("image",))
        for keyframe in self.keyframes:
            yield MediaFile("keyframes", keyframe.image, ("image",))
        if self.last_image is not None:
            yield MediaFile("last_image", self.last_image, ("image",))
        if self.mask is not None:
            yield MediaFile("mask", self.mask, ("image", "video"))
        if self.audio is not None:
            yield MediaFile("audio", self.audio, ("audio",))
        for tag, paths in self.references.items():
            for path in paths:
                yield MediaFile(
                    f"references {tag}", path, ("image",) if len(paths) > 1 else ("image", "video", "audio")
                )
