"""What can be asked over HTTP, in the shape of OpenAI's videos with what it lacks. Media are names, never paths."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, ConfigDict, Field, field_validator, model_validator

from skyreels.config import Config
from skyreels.serving.errors import invalid

Scale = Annotated[float, Field(ge=0, le=100)]
Tag = Annotated[str, Field(pattern=r"^@[A-Za-z0-9_-]{1,64}$")]
Source = Annotated[str, Field(max_length=256)]
MAX_REFERENCES = 12
MAX_SHOTS = 20
MAX_CLIPS = 8


class TimedImage(Config):
    """An image that the clip passes through at `time` seconds."""

    model_config = ConfigDict(allow_inf_nan=False)

    time: float = Field(ge=0, le=3600)
    image: Source


class TimedPrompt(Config):
    """A shot of `seconds`, and what it shows."""

    model_config = ConfigDict(allow_inf_nan=False)

    prompt: str = Field(min_length=1, max_length=32_000)
    seconds: float = Field(gt=0, le=3600)


class NamedReference(Config):
    """Something that the prompt names by its tag. Images with one tag show one subject."""

    type: Literal["image", "video", "audio"]
    tag: Tag
    source: Source
    role: Literal["subject", "style", "scene", "motion", "camera", "voice", "music", "grid"] | None = Field(
        None, description="told back, for people; what it is used for stands in the prompt"
    )


class VideoRequest(Config):
    """One clip. What is left out takes the model's defaults; a field that is not known is refused.

    Where a file is meant, send it as a part of the form under the field's name, or give a `data:` URL, the name of
    another part, {"file_id": ...} of `/v1/files`, or {"video_id": ...} of an earlier job; also an https URL that begins
    as the service's operator allows.
    """

    model_config = ConfigDict(allow_inf_nan=False, validate_by_name=True)

    prompt: str = Field(min_length=1, max_length=32_000, examples=["a red ball falls with a thud"])
    shots: tuple[TimedPrompt, ...] = Field(
        (), max_length=MAX_SHOTS, description="one clip of several shots, in the place of `prompt` and `seconds`"
    )
    model: str | None = Field(None, max_length=128)
    enhance_prompt: bool = Field(
        True, description="false: the prompt's very words are asked; /v1/prompts tells what else they become"
    )
    negative_prompt: str = Field("", max_length=32_000)
    seconds: float | None = Field(
        None, gt=0, le=3600, validation_alias=AliasChoices("seconds", "duration"), description="also as a string"
    )
    window_seconds: float | None = Field(
        None, gt=0, le=3600, description="how much is made at once: a longer clip goes on in windows of that length"
    )
    overlap_seconds: float | None = Field(
        None, gt=0, le=3600, description="how much a window keeps of the one before; a quarter of a window"
    )
    size: str | None = Field(None, pattern=r"^[1-9]\d{0,4}x[1-9]\d{0,4}$", description="WxH", examples=["96x64"])
    fps: float | None = Field(None, ge=1, le=120)
    task: Literal["extend", "lead_up", "edit", "add_sound"] | None = Field(
        None, description="what `source_video` is given for, where there is no mask; the job tells its task"
    )
    first_frame: Source | None = Field(
        None, validation_alias=AliasChoices("first_frame", "input_reference"), description="an image to start from"
    )
    last_frame: Source | None = None
    keyframes: tuple[TimedImage, ...] = Field((), max_length=MAX_REFERENCES)
    references: tuple[NamedReference, ...] = Field((), max_length=MAX_REFERENCES)
    source_video: Source | None = Field(None, validation_alias=AliasChoices("source_video", "video"))
    source_audio: Source | None = Field(None, description="sound that the picture is made for; it is kept")
    mask: Source | None = Field(
        None,
        description="an image, or a video of as many frames as `source_video`; or an object: {type: bbox, box}, "
        "{type: polygon, points}, {type: track, boxes: [{time, box}]}, {type: rle, size, counts}, "
        "{type: painted, at: [{time, size, counts}]}",
    )
    mask_mode: Literal["edit_white"] | None = Field(
        None, description="says that white is made anew and black is kept; must be said with a mask"
    )
    remove: tuple[Literal["text", "logo"], ...] = Field(
        (),
        max_length=2,
        description="text (subtitles and other letters) and logo (watermarks too): found where they lie over "
        "`source_video` and made anew, the sound is kept; the job's `removed` tells where. A mask says where instead",
    )
    audio: bool = Field(True, validation_alias=AliasChoices("audio", "sound", "generate_audio", "generate_sound"))
    seed: int | None = Field(None, ge=0, lt=2**63)
    num_inference_steps: int | None = Field(None, ge=1, le=1000)
    guidance_scale: Scale | None = None
    audio_guidance_scale: Scale | None = None
    lora: str | None = Field(None, max_length=128, description="an adapter by its name; /v1/models lists them")
    lora_scale: float = Field(1.0, ge=-4, le=4)
    refine: bool = Field(False, description="larger, at a higher frame rate")
    n: int = Field(
        1,
        ge=1,
        le=MAX_CLIPS,
        description="clips, from `seed` and those behind it; each is a job, and `clips` lists all",
    )
    output_format: Literal["mp4"] = "mp4"
    webhook_url: str | None = Field(None, max_length=2048)
    metadata: dict[str, Annotated[str, Field(max_length=512)]] = Field({}, max_length=16)

    @model_validator(mode="before")
    @classmethod
    def _of_shots(cls, values: Any) -> Any:
        """The words of all shots are the prompt, as it is told and searched for tags."""
        shots = values.get("shots") if isinstance(values, dict) else None
        if not isinstance(shots, list | tuple) or "prompt" in values:
            return values
        words = [shot["prompt"] for shot in shots if isinstance(shot, dict) and isinstance(shot.get("prompt"), str)]
        return {**values, "prompt": "\n".join(words)}

    @field_validator("remove", mode="before")
    @classmethod
    def _listed(cls, kinds: Any) -> Any:
        """Kinds in one word, as a form has them."""
        return tuple(filter(None, kinds.split(","))) if isinstance(kinds, str) else kinds

    @field_validator("size")
    @classmethod
    def _even(cls, size: str | None) -> str | None:
        if size is not None and any(int(side) % 2 for side in size.split("x")):
            raise ValueError("both sides must be even")
        return size

    @model_validator(mode="after")
    def _whole(self) -> "VideoRequest":
        missing = [reference.tag for reference in self.references if not _named(reference.tag, self.prompt)]
        if missing:
            raise ValueError(f"the prompt does not name {', '.join(missing)}: write each tag where it is meant")
        if self.shots and self.prompt != "\n".join(shot.prompt for shot in self.shots):
            raise ValueError("shots say what is shown: leave the prompt out")
        if self.shots and self.seconds is not None:
            raise ValueError("shots say how long the clip is: leave seconds out")
        if self.seed is not None and self.seed + self.n > 2**63:
            raise ValueError(f"seed: {self.n} clips from this one on pass the last there is: take a smaller one")
        if (self.mask is None) != (self.mask_mode is None):
            raise ValueError("a mask needs mask_mode=edit_white, and the other way round: white is made anew")
        changed = self.mask is not None or bool(self.remove)
        if self.source_video is not None and not changed and self.task is None:
            raise ValueError(
                "source_video needs a task: extend, lead_up, edit or add_sound; or a mask to inpaint, or remove"
            )
        if self.task is not None and self.source_video is None:
            raise ValueError(f"task={self.task} needs a source_video")
        if self.remove and self.source_video is None:
            raise ValueError("remove needs the source_video that text or a logo lies over")
        if self.task is not None and changed:
            raise ValueError("with a mask or remove the video is inpainted: leave the task out")
        return self

    @property
    def width_and_height(self) -> tuple[int, int] | None:
        if self.size is None:
            return None
        width, height = self.size.split("x")
        return int(width), int(height)


MEDIA: dict[str, tuple[str, ...]] = {
    "first_frame": ("image",),
    "last_frame": ("image",),
    "source_video": ("video",),
    "source_audio": ("audio",),
    "mask": ("image", "video"),
}
"""Kinds of file that each field of one file takes."""


def spelled(values: dict[str, Any]) -> dict[str, Any]:
    """The values with every field under its own name. ServingError where a field is given under two names."""
    names: dict[str, Any] = {}
    for field, info in VideoRequest.model_fields.items():
        alias = info.validation_alias
        known = [field, *(str(choice) for choice in alias.choices)] if isinstance(alias, AliasChoices) else [field]
        given = [name for name in dict.fromkeys(known) if name in values]
        if len(given) > 1:
            raise invalid(None, f"{' and '.join(given)} mean the same: give one of them")
        names |= dict.fromkeys(given, field)
    return {names.get(name, name): value for name, value in values.items()}


def media_places(values: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Every place of a body where a file is meant, by fields' own names: what it is called, and what holds it where."""
    for where in MEDIA:
        if values.get(where) is not None:
            yield where, values, where
    for where, inner in (("keyframes", "image"), ("references", "source")):
        rows = values[where] if isinstance(values.get(where), list) else []
        for number, row in enumerate(rows):
            if isinstance(row, dict) and row.get(inner) is not None:
                yield f"{where}.{number}.{inner}", row, inner


def _named(tag: str, prompt: str) -> bool:
    return re.search(re.escape(tag) + r"(?![A-Za-z0-9_-])", prompt) is not None
