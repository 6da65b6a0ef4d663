"""Masks that are said and no files: boxes, polygons, tracked boxes, run lengths, also by time. White is made anew."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image, ImageDraw
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from skyreels.config import Config
from skyreels.media.encode import write_video
from skyreels.media.image import write_image
from skyreels.serving.errors import ServingError, invalid

KINDS = ("bbox", "polygon", "track", "rle", "painted")
_LOSSLESS = 1  # of H.264 at such sizes: edges stay where they are
_EXACT = 1e-6  # seconds: a key frame's time is that of its frame, written down in decimals

Number = Annotated[float, Field(ge=0, le=1e5)]
Corners = tuple[Number, Number, Number, Number]
Point = tuple[Number, Number]


class _Shape(Config):
    model_config = ConfigDict(allow_inf_nan=False)

    units: Literal["pixels", "relative"] = Field("pixels", description="relative: shares of width and height, 0 to 1")


class Box(_Shape):
    """`box` is (left, top, right, bottom)."""

    type: Literal["bbox"]
    box: Corners

    @model_validator(mode="after")
    def _ordered(self) -> "Box":
        _check_corners(self.box)
        return self


class Polygon(_Shape):
    """`points` are (x, y) of its corners."""

    type: Literal["polygon"]
    points: tuple[Point, ...] = Field(min_length=3, max_length=1000)


class TimedBox(Config):
    """A box at `time` seconds."""

    model_config = ConfigDict(allow_inf_nan=False)

    time: float = Field(ge=0, le=3600)
    box: Corners

    @model_validator(mode="after")
    def _ordered(self) -> "TimedBox":
        _check_corners(self.box)
        return self


class Track(_Shape):
    """A box that moves evenly from one of `boxes` to the next, and stands before the first and after the last."""

    type: Literal["track"]
    boxes: tuple[TimedBox, ...] = Field(min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _in_order(self) -> "Track":
        _check_times(self.boxes)
        return self


class _Runs(Config):
    """As COCO has it: `size` (height, width); lengths of runs down the columns, of black first, or as its text."""

    size: tuple[Annotated[int, Field(ge=1, le=8192)], Annotated[int, Field(ge=1, le=8192)]]
    counts: tuple[Annotated[int, Field(ge=0)], ...] | str = Field(max_length=1_000_000)


class RunLengths(_Runs):
    type: Literal["rle"]


class TimedRuns(_Runs):
    """What is white from `time` seconds on."""

    model_config = ConfigDict(allow_inf_nan=False)

    time: float = Field(ge=0, le=3600)


class Painted(Config):
    """Key frames: each of `at` holds till the next one, and the first before it too."""

    type: Literal["painted"]
    at: tuple[TimedRuns, ...] = Field(min_length=1, max_length=100)

    @model_validator(mode="after")
    def _in_order(self) -> "Painted":
        _check_times(self.at)
        return self


class _Said(BaseModel):
    mask: Annotated[Box | Polygon | Track | RunLengths | Painted, Field(discriminator="type")]


def drawn_mask(value: dict[str, Any], video: dict[str, Any], path: Path) -> None:
    """Write the mask as a picture, or a video where it moves. `video` has `size` (width, height), `fps`, `frames`.

    ServingError naming the field that is wrong.
    """
    try:
        mask = _Said.model_validate({"mask": value}).mask
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in fault["loc"] if part not in KINDS)
        raise invalid(where, f"{where}: {fault['msg']}; a mask is one of {', '.join(KINDS)}") from None
    width, height = video["size"]
    if isinstance(mask, Track | Painted):
        if width % 2 or height % 2:
            raise invalid("mask", f"a moving mask needs a video of even sides, and this one is {width}x{height}")
        moving = _moving(mask, video) if isinstance(mask, Track) else _held(mask, video)
        frames = (np.repeat(frame[..., None], 3, axis=-1) for frame in moving)
        write_video(path, frames, video["fps"], crf=_LOSSLESS, gop=1)
        return
    if isinstance(mask, RunLengths):
        still = _picture(_runs(mask, width, height, "mask"), width, height)
    else:
        still = _still(mask, width, height)
    if not still.any():
        raise _empty(width, height)
    picture = path.with_suffix(".png")
    write_image(picture, np.repeat(still[..., None], 3, axis=-1))
    picture.rename(path)


def _check_times(timed: Sequence[TimedBox] | Sequence[TimedRuns]) -> None:
    times = [at.time for at in timed]
    if times != sorted(set(times)):
        raise ValueError("times must rise from one to the next")


def _empty(width: int, height: int) -> ServingError:
    return invalid("mask", f"it covers no pixel of the video's {width}x{height}: nothing would be made")


def _check_corners(box: Corners) -> None:
    left, top, right, bottom = box
    if left >= right or top >= bottom:
        raise ValueError("a box is left, top, right, bottom, and has an area")


def _still(mask: Box | Polygon, width: int, height: int) -> np.ndarray:
    """(H, W) uint8."""
    picture = Image.new("L", (width, height))
    scale = _scale(mask, width, height)
    if isinstance(mask, Box):
        return _boxed(mask.box, scale, width, height)
    ImageDraw.Draw(picture).polygon([(x * scale[0], y * scale[1]) for x, y in mask.points], fill=255)
    return np.asarray(picture)


def _moving(mask: Track, video: dict[str, Any]) -> Iterator[np.ndarray]:
    width, height = video["size"]
    scale = _scale(mask, width, height)
    times = [at.time for at in mask.boxes]
    corners = np.array([at.box for at in mask.boxes])
    for number in range(video["frames"]):
        moment = number / video["fps"]
        box = [float(np.interp(moment, times, corners[:, side])) for side in range(4)]
        yield _boxed((box[0], box[1], box[2], box[3]), scale, width, height)


def _held(mask: Painted, video: dict[str, Any]) -> Iterator[np.ndarray]:
    width, height = video["size"]
    runs = [_runs(at, width, height, f"mask.at.{number}") for number, at in enumerate(mask.at)]
    moments = np.arange(video["frames"]) / video["fps"]
    shown = (np.searchsorted([at.time for at in mask.at], moments + _EXACT, side="right") - 1).clip(0)
    if not any(sum(runs[number][1::2]) for number in set(shown)):
        raise _empty(width, height)
    return (_picture(runs[number], width, height) for number in shown)


def _boxed(box: Corners, scale: tuple[float, float], width: int, height: int) -> np.ndarray:
    """Every pixel that the box touches."""
    left, right = np.floor(box[0] * scale[0]), np.ceil(box[2] * scale[0])
    top, bottom = np.floor(box[1] * scale[1]), np.ceil(box[3] * scale[1])
    picture = np.zeros((height, width), np.uint8)
    picture[int(top) : int(bottom), int(left) : int(right)] = 255
    return picture


def _scale(mask: _Shape, width: int, height: int) -> tuple[float, float]:
    return (float(width), float(height)) if mask.units == "relative" else (1.0, 1.0)


def _runs(mask: _Runs, width: int, height: int, where: str) -> list[int]:
    """Lengths that make the whole picture, of black first."""
    if mask.size != (height, width):
        told = f"it is {mask.size[1]}x{mask.size[0]} and the video {width}x{height}"
        raise invalid(f"{where}.size", f"{told}: give [height, width] of the video")
    counts = _uncompressed(mask.counts, where) if isinstance(mask.counts, str) else list(mask.counts)
    if min(counts, default=0) < 0 or sum(counts) != width * height:
        raise invalid(f"{where}.counts", f"the runs make {sum(counts)} pixels, and the video has {width * height}")
    return counts


def _picture(counts: Sequence[int], width: int, height: int) -> np.ndarray:
    """(H, W) uint8."""
    values = np.arange(len(counts)) % 2 * 255
    return np.repeat(values.astype(np.uint8), counts).reshape(width, height).T


def _uncompressed(text: str, where: str) -> list[int]:
    """COCO's text: five bits a character, the sixth says that more follow; from the third run on, differences."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise invalid(f"{where}.counts", "this is no text that COCO's tools write")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    return counts
