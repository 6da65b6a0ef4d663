"""What can be asked of a generator, with media by name; the same for a command line and a server.

A name means nothing here: whoever takes the request says which local file it stands for (`Files`), so a request off a
wire can name no path of the machine it is read on.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import ConfigDict, Field, field_validator

from model.conditioning import Reference, check_tags
from model.generation.prepared import Media, VideoUse
from model.generation.prompts import Shot, StructuredPrompt, prompt_seconds, render_prompt
from pipelines.overlays.find import OverlayKind
from skyreels.config import Config

Kind = Literal["image", "video", "audio"]
Files = Mapping[str, Path]
"""The local file that each name of a request stands for."""

MAX_SECONDS, MAX_PROMPT = 60.0, 20_000
MAX_REGIONS = 1000
Scale = Annotated[float, Field(ge=0, le=100)]


class RequestError(ValueError):
    """What is wrong with a request, in which field, and what to do."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


@dataclass(frozen=True)
class Holds:
    """Of a field that names a file: what the file may hold; the first of it that it holds counts."""

    kinds: tuple[Kind, ...]


class Keyframe(Config):
    """An image that the clip passes through at `seconds`."""

    model_config = ConfigDict(allow_inf_nan=False)

    seconds: float = Field(ge=0)
    image: str


class Region(Config):
    """A box of the video that is made anew from `start` to `end`, seconds after its first picture.

    `box` is left, top, right, bottom in pixels of the video; `kind` is what was found there.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    kind: OverlayKind
    box: tuple[float, float, float, float]
    start: float = Field(ge=0)
    end: float = Field(gt=0)


class MediaFile(NamedTuple):
    """A file of a request, the field that names it, and what it may hold; `tag` is that of a reference."""

    field: str
    path: Path
    kinds: tuple[Kind, ...]
    tag: str | None = None

    @property
    def where(self) -> str:
        """The field as errors name it."""
        return self.field if self.tag is None else f"{self.field} {self.tag}"


class GenerationRequest(Config):
    """One clip. What is left out takes the model's defaults.

    `image`, `video`, ... are names of files. Files under one tag of `references` are a clip, a sound, or several images
    of one subject. `still` asks for one picture without sound. A `reference_guidance_scale` is of all references, or by
    tag; the video of an edit is called `source`. `regions` of the video are made anew, which `remove` finds.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    prompt: str | StructuredPrompt | tuple[Shot, ...]
    negative_prompt: str = Field("", max_length=MAX_PROMPT, description="what to stay away from")
    # In this order the first file that is given sets the clip's shape.
    video: Annotated[str | None, Holds(("video", "image"))] = Field(
        None, description="a clip to use as --video-use says, or with --mask to inpaint; also one image"
    )
    image: Annotated[str | None, Holds(("image",))] = Field(None, description="the first frame")
    keyframes: tuple[Keyframe, ...] = ()
    last_image: Annotated[str | None, Holds(("image",))] = Field(None, description="the last frame")
    mask: Annotated[str | None, Holds(("image", "video"))] = Field(
        None,
        description="what to generate: white is made anew, black is kept, as in diffusers; one picture for all frames, "
        "or a video, of the size of --video",
    )
    remove: tuple[OverlayKind, ...] = Field(
        (),
        description="text, logo or text,logo: find what is laid over --video (subtitles and other letters; logos and "
        "watermarks), make anew what is behind it, and keep the sound; --mask says where instead",
    )
    regions: tuple[Region, ...] = Field((), max_length=MAX_REGIONS)
    audio: Annotated[str | None, Holds(("audio",))] = Field(
        None, description="sound, or a clip with sound, to make the picture for; it is kept as it is"
    )
    video_use: VideoUse = "extend"
    references: dict[str, tuple[str, ...]] = Field(default_factory=dict, max_length=12)
    sound: bool = True
    picture: bool = True
    still: bool = False
    seconds: float | None = Field(None, gt=0, le=MAX_SECONDS, description="length of the whole result")
    window: float | None = Field(
        None, gt=0, le=MAX_SECONDS, description="seconds made at once; a longer clip goes on in windows of that length"
    )
    overlap: float | None = Field(
        None, gt=0, le=MAX_SECONDS, description="seconds that a window keeps of the one before (a quarter of a window)"
    )
    width: int | None = Field(None, ge=1, le=8192)
    height: int | None = Field(None, ge=1, le=8192)
    fps: float | None = Field(
        None, ge=1, le=120, description="frame rate before the refiner, and of media as they are read"
    )
    seed: int | None = Field(None, ge=0, lt=2**63, description="the same seed gives the same file on one device")
    steps: int | None = Field(None, ge=1, le=1000, description="sampling steps")
    guidance_scale: Scale | None = Field(None, description="1 switches it off")
    audio_guidance_scale: Scale | None = Field(None, description="1 switches it off")
    cross_modal_guidance_scale: Scale | None = Field(None, description="1 switches it off")
    reference_guidance_scale: Scale | dict[str, Scale] | None = None
    guidance_rescale: float | None = Field(None, ge=0, le=1, description="0 to 1, against over-saturation")
    refine: bool = Field(False, description="run the refiner: larger, at a higher frame rate")

    @field_validator("remove", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """Kinds in one word, as a command line has them."""
        return tuple(filter(None, value.split(","))) if isinstance(value, str) else value

    def check(self) -> None:
        """Raise ValueError where the fields contradict each other or are too long; nothing is read."""
        if (self.width is None) != (self.height is None):
            raise RequestError("size", "give both width and height, or neither")
        if self.still and self.seconds is not None:
            raise RequestError("seconds", "one picture has no length: leave it out, or ask for a video")
        if self.still and not self.picture:
            raise RequestError("picture", "it is switched off, and one picture is asked for")
        self._check_window()
        self._check_removal()
        empty = [tag for tag, names in self.references.items() if not names]
        if empty:
            raise RequestError("references", f"{', '.join(empty)} has no file")
        text = render_prompt(self.prompt)
        if len(text) > MAX_PROMPT:
            raise RequestError("prompt", f"{len(text):,} characters, at most {MAX_PROMPT:,} are read: shorten it")
        if (lasting := prompt_seconds(self.prompt) or 0) > MAX_SECONDS:
            raise RequestError("prompt", f"the shots last {lasting:g} s, at most {MAX_SECONDS:g}: leave some out")
        check_tags(text, [Reference(tag) for tag in self.references])
        Media(**{field.name: getattr(self, field.name) for field in fields(Media)})

    @property
    def whole_seconds(self) -> float | None:
        """As asked, or as long as the shots; None: as the model makes it."""
        return prompt_seconds(self.prompt) if self.seconds is None else self.seconds

    @property
    def seconds_at_once(self) -> float | None:
        """Of the first window, or of the whole clip."""
        return self.window if self.in_windows else self.seconds

    @property
    def in_windows(self) -> bool:
        """Whether the clip is longer than what is made at once."""
        return self.window is not None and self.whole_seconds is not None and self.whole_seconds > self.window

    def _check_removal(self) -> None:
        field = "remove" if self.remove else "regions"
        if not (self.remove or self.regions):
            return
        if self.video is None:
            raise RequestError(field, "it is said of a video (or one picture): give that too")
        if self.video_use != "extend":
            raise RequestError(field, f"the video is inpainted, which is no {self.video_use}: leave one of the two out")
        if self.regions and self.mask is not None:
            raise RequestError("regions", "the mask says where already: leave one of the two out")

    def _check_window(self) -> None:
        if self.window is None:
            if self.overlap is not None:
                raise RequestError("overlap", "there are no windows that could overlap: give window too")
            return
        if self.whole_seconds is None:
            raise RequestError("window", "it is a part of the clip: say how long the whole is, in seconds")
        whole: dict[str, object] = {
            f"video_use {self.video_use}": self.video is not None and self.video_use != "extend",
            "mask": self.mask,
            "remove": self.remove,
            "regions": self.regions,
            "keyframes": self.keyframes,
            "last_image": self.last_image,
        }
        whole |= {"still": self.still, "picture": not self.picture}
        if beside := [name for name, given in whole.items() if given]:
            raise RequestError("window", f"a clip in windows takes no {', '.join(beside)}: leave one of the two out")

    def files(self, files: Files) -> list[MediaFile]:
        """Every file, those that the clip's shape follows first. Raises RequestError for a name that `files` lacks."""
        found = []
        for field, name, kinds, tag in self._named():
            file = MediaFile(field, files.get(name, Path()), kinds, tag)
            if name not in files:
                message = f"no file {name!r} came with the request: send it along, or leave the field out"
                raise RequestError(file.where, message)
            found.append(file)
        return found

    def names(self) -> list[str]:
        """What the request calls its files."""
        return [name for _, name, _, _ in self._named()]

    def _named(self) -> Iterator[tuple[str, str, tuple[Kind, ...], str | None]]:
        """(field, name, kinds, tag)."""
        for field, info in type(self).model_fields.items():
            value = getattr(self, field)
            for holds in (part for part in info.metadata if isinstance(part, Holds) and value is not None):
                yield field, value, holds.kinds, None
            if field == "keyframes":
                yield from ((field, keyframe.image, ("image",), None) for keyframe in self.keyframes)
        for tag, names in self.references.items():
            kinds: tuple[Kind, ...] = ("image",) if len(names) > 1 else ("image", "video", "audio")
            yield from (("references", name, kinds, tag) for name in names)
