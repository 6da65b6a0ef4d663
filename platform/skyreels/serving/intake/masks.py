"""Masks that are said rather than drawn: boxes, polygons, tracked boxes, run lengths. White is made anew."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image, ImageDraw
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from skyreels.config import Config
from skyreels.media.encode import write_video
from skyreels.media.image import write_image
from skyreels.serving.errors import invalid

KINDS = ("bbox", "polygon", "track", "rle")
_LOSSLESS = 1  # of H.264 at such sizes: edges stay where they are

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
        times = [at.time for at in self.boxes]
        if times != sorted(set(times)):
            raise ValueError("times must rise from box to box")
        return self


class RunLengths(Config):
    """As COCO has it: `size` (height, width); lengths of runs down the columns, of black first, or as its text."""

    type: Literal["rle"]
    size: tuple[Annotated[int, Field(ge=1, le=8192)], Annotated[int, Field(ge=1, le=8192)]]
    counts: tuple[Annotated[int, Field(ge=0)], ...] | str = Field(max_length=1_000_000)


class _Said(BaseModel):
    mask: Annotated[Box | Polygon | Track | RunLengths, Field(discriminator="type")]


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
    if isinstance(mask, Track):
        if width % 2 or height % 2:
            raise invalid("mask", f"a moving mask needs a video of even sides, and this one is {width}x{height}")
        frames = (np.repeat(frame[..., None], 3, axis=-1) for frame in _moving(mask, video))
        write_video(path, frames, video["fps"], crf=_LOSSLESS, gop=1)
        return
    still = _runs(mask, width, height) if isinstance(mask, RunLengths) else _still(mask, width, height)
    if not still.any():
        raise invalid("mask", f"it covers no pixel of the video's {width}x{height}: nothing would be made")
    picture = path.with_suffix(".png")
    write_image(picture, np.repeat(still[..., None], 3, axis=-1))
    picture.rename(path)


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


def _boxed(box: Corners, scale: tuple[float, float], width: int, height: int) -> np.ndarray:
    """Every pixel that the box touches."""
    left, right = np.floor(box[0] * scale[0]), np.ceil(box[2] * scale[0])
    top, bottom = np.floor(box[1] * scale[1]), np.ceil(box[3] * scale[1])
    picture = np.zeros((height, width), np.uint8)
    picture[int(top) : int(bottom), int(left) : int(right)] = 255
    return picture


def _scale(mask: _Shape, width: int, height: int) -> tuple[float, float]:
    return (float(width), float(height)) if mask.units == "relative" else (1.0, 1.0)


def _runs(mask: RunLengths, width: int, height: int) -> np.ndarray:
    if mask.size != (height, width):
        told = f"it is {mask.size[1]}x{mask.size[0]} and the video {width}x{height}"
        raise invalid("mask.size", f"{told}: give [height, width] of the video")
    counts = _uncompressed(mask.counts) if isinstance(mask.counts, str) else list(mask.counts)
    if min(counts, default=0) < 0 or sum(counts) != width * height:
        raise invalid("mask.counts", f"the runs make {sum(counts)} pixels, and the video has {width * height}")
    values = np.arange(len(counts)) % 2 * 255
    return np.repeat(values.astype(np.uint8), counts).reshape(width, height).T


def _uncompressed(text: str) -> list[int]:
    """COCO's text: five bits a character, the sixth says that more follow; from the third run on, differences."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise invalid("mask.counts", "this is no text that COCO's tools write")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    return counts
