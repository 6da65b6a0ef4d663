"""What a latent cache holds: sizes and lengths, what is encoded of each clip, and which bucket a clip falls into."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import Field

from model.shapes import AudioCodecSpec, ClipShape, VideoCodecSpec
from pipelines.dataset.buckets import ASPECTS, nearest_aspect
from pipelines.dataset.reader import Clip
from pipelines.training.data.draws import drawn_by
from pipelines.training.latents.sample import LatentKind
from skyreels.config import Config

_SOUND_STARTS = 100.0  # places per second at which a window of sound alone may start
_ROUNDING = 1e-6  # of a frame
_LATER = ("region_kinds",)

ROOM_SHARE = 0.5
"""Of the clips that are long enough, so many are cut to a length that leaves room for references."""

Aspect = Literal["16x9", "4x3", "1x1", "3x4", "9x16"]
CaptionForm = Literal["short", "long", "structured"]
ReferenceKind = Literal["image", "video", "audio"]


class RefinedSpec(Config):
    """How much larger and faster the refiner's clips are than the base's (a preset's `refiner` section)."""

    space_factor: int = Field(2, ge=1)
    time_factor: int = Field(2, ge=1)
    enlarges: Literal["latents", "pixels"] = "latents"


class LatentSpec(Config):
    """One cache. Its name and the size of its parts aside, every field changes what the cache is."""

    name: str = Field("default", pattern=r"[A-Za-z0-9_.-]+", description="first half of the cache folder's name")
    kinds: tuple[LatentKind, ...] = ("image", "video", "audio", "pair")
    sizes: tuple[int, ...] = Field((64,), description="short sides in pixels; a clip takes one of those it fills")
    aspects: tuple[Aspect, ...] = ("16x9", "4x3", "1x1", "3x4", "9x16")
    multiple: int = Field(16, ge=1, description="sides are whole multiples of this: codec stride times patch")
    seconds: tuple[float, ...] = Field((1.0,), description="lengths; a clip takes the longest that it fills")
    fps: float = Field(16.0, gt=0)
    windows: int = Field(1, ge=1, description="samples of one clip, at most; each from its own part of the clip")
    frames_as_images: int = Field(0, ge=0, description="frames of each clip that become samples of kind image too")
    max_upscale: float = Field(1.05, ge=1, description="a picture may be enlarged by this much, no more")
    min_fps_share: float = Field(
        0.7, ge=0, description="clips below this share of the wanted frame rate are left out: held frames teach judder"
    )
    captions: tuple[CaptionForm, ...] = ("short", "long", "structured")
    audio: bool = Field(True, description="encode sound where a clip has it")
    stills: bool = True
    extensions: int = Field(2, ge=0, description="given beginnings and endings per clip, in turn")
    regions: int = Field(1, ge=0, description="regions to inpaint per clip or picture")
    region_kinds: tuple[Literal["image", "video"], ...] = Field(
        ("image", "video"), description="kinds of samples that have them; of a pair, the edit's own is always there"
    )
    references: tuple[ReferenceKind, ...] = ("image", "video", "audio")
    reference_seconds: float = Field(0.5, gt=0, description="length of a video or audio reference")
    refined: RefinedSpec | None = Field(None, description="also encode clips at the refiner's size and frame rate")
    dtype: Literal["fp32", "bf16", "fp16"] = "fp16"
    seed: int = 0
    part_samples: int = Field(64, ge=1, description="samples that are committed together")

    @property
    def identity(self) -> dict[str, Any]:
        """What names a cache. A setting that there was not always tells only where it is not as it was without."""
        told = self.model_dump(mode="json", exclude={"name"})
        later = {name for name in _LATER if getattr(self, name) == LatentSpec.model_fields[name].default}
        return {name: value for name, value in told.items() if name not in later}

    def regions_of(self, kind: LatentKind) -> int:
        """How many regions a picture or clip has."""
        return self.regions if kind in self.region_kinds else 0


@dataclass(frozen=True)
class Bucket:
    """Samples of one kind and shape: what a batch is made of. `seconds` is the nominal length, 0 for pictures."""

    kind: LatentKind
    height: int = 0
    width: int = 0
    size: int = 0
    aspect: str = ""
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """Such as `video-64p-1x1-1s`, `image-64p-16x9`, `audio-1s`."""
        parts: list[str] = [self.kind]
        if self.size:
            parts += [f"{self.size}p", self.aspect]
        if self.seconds:
            parts.append(f"{self.seconds:g}s")
        return "-".join(parts)

    @classmethod
    def parse(cls, name: str, spec: "LatentSpec") -> "Bucket":
        """The bucket of that name in a cache of this spec."""
        kind, *rest = name.split("-")
        seconds = float(rest.pop().removesuffix("s")) if kind != "image" else 0.0
        if not rest:
            return cls(kind, seconds=seconds)  # type: ignore[arg-type]
        size, aspect = int(rest[0].removesuffix("p")), rest[1]
        return cls(kind, *sides(size, ASPECTS[aspect], spec.multiple), size, aspect, seconds)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Misfit:
    """Why a clip is in no bucket, and what to change."""

    reason: str
    remedy: str
    detail: str


_PART_OF_CLIP = re.compile(r"-[iw]\d+$")  # of a sample's key


@dataclass(frozen=True)
class Placed:
    """A sample to make: which clip, its bucket, and where its window starts (seconds, on a frame of the clip)."""

    key: str
    clip: Clip
    bucket: Bucket
    start_s: float


def clip_of(key: str) -> str:
    """The key of the clip that a sample is a window or a frame of."""
    return _PART_OF_CLIP.sub("", key)


def clip_shape(
    bucket: Bucket, spec: LatentSpec, video: VideoCodecSpec, audio: AudioCodecSpec | None
) -> ClipShape | None:
    """The extent of a bucket's samples; None for sound alone."""
    if bucket.kind == "audio":
        return None
    if bucket.kind == "image":
        return ClipShape(1, spec.fps, bucket.height, bucket.width, video)
    sound = audio if spec.audio else None
    return ClipShape.from_seconds(bucket.seconds, spec.fps, bucket.height, bucket.width, video, sound)


def sides(short: int, aspect: float, multiple: int) -> tuple[int, int]:
    """(height, width) in whole multiples, near the short side and the aspect ratio."""
    across = short * max(aspect, 1 / aspect)
    near, far = (max(multiple, round(side / multiple) * multiple) for side in (short, across))
    return (near, far) if aspect >= 1 else (far, near)


def window_seconds(nominal: float, spec: LatentSpec, video: VideoCodecSpec) -> float:
    """How long a clip, or sound alone, of that nominal length really is: whole latents of frames."""
    return video.nearest_frames(nominal * spec.fps) / spec.fps


def place(clip: Clip, spec: LatentSpec, video: VideoCodecSpec) -> list[Placed] | Misfit:
    """The samples that a clip gives, or why it gives none. Of kinds that the spec does not ask for: no samples."""
    whole = _placed_whole(clip, spec, video) if clip.kind in spec.kinds else []
    if clip.kind == "video" and "image" in spec.kinds and spec.frames_as_images:
        frames = _placed_frames(clip, spec)
        if isinstance(whole, Misfit):
            return frames or whole
        return [*whole, *frames]
    return whole


def _placed_whole(clip: Clip, spec: LatentSpec, video: VideoCodecSpec) -> list[Placed] | Misfit:
    """A picture, or windows of a clip or sound."""
    if clip.kind == "pair" and clip.edited is None:
        return Misfit("nothing_edited", "make the pair again with an edit that shows", "no mask has a pixel in it")
    if clip.kind != "pair" and not clip.captions.keys() & set(spec.captions):
        return Misfit("no_caption", "caption the dataset, or ask for other forms", f"has {sorted(clip.captions)}")
    sized = Bucket("audio") if clip.kind == "audio" else _sized(clip, clip.kind, spec)
    if isinstance(sized, Misfit):
        return sized
    if clip.kind == "image":
        return [Placed(clip.key, clip, sized, 0.0)]
    if clip.kind != "audio" and clip.fps < spec.fps * _time_factor(spec) * spec.min_fps_share:
        return Misfit("too_slow", "lower fps or min_fps_share", f"{clip.fps:g} frames per second")
    fitting = [s for s in sorted(spec.seconds) if _last_frame_s(s, spec, video) <= clip.seconds]
    if not fitting:
        return Misfit("too_short", "add a shorter length to seconds", f"lasts {clip.seconds:.3f} s")
    bucket = replace(sized, seconds=_length(clip, fitting, spec, video))
    return list(_windows(clip, bucket, spec, window_seconds(bucket.seconds, spec, video)))


def _length(clip: Clip, fitting: list[float], spec: LatentSpec, video: VideoCodecSpec) -> float:
    """The longest that the clip fills; for some clips, the longest that leaves room for a reference beside it."""
    roomy = [s for s in fitting if has_room(clip.seconds, window_seconds(s, spec, video), spec)]
    drawn = bool(roomy) and drawn_by(spec.seed, clip.key, "room").random() < ROOM_SHARE
    return roomy[-1] if drawn and clip.kind != "pair" else fitting[-1]


def has_room(clip_s: float, window_s: float, spec: LatentSpec) -> bool:
    """Whether a clip has a reference's length left before or after a window that lies at one of its ends."""
    return bool(spec.references) and clip_s - window_s >= spec.reference_seconds + 1 / spec.fps


def _placed_frames(clip: Clip, spec: LatentSpec) -> list[Placed]:
    """Single frames of a clip as pictures, one from each of as many equal stretches of it."""
    bucket = _sized(clip, "image", spec)
    if isinstance(bucket, Misfit) or not clip.captions.keys() & set(spec.captions):
        return []
    placed = []
    for number in range(min(spec.frames_as_images, clip.frames)):
        key = f"{clip.key}-i{number}"
        edges = [round(clip.frames * place / spec.frames_as_images) for place in (number, number + 1)]
        frame = int(drawn_by(spec.seed, key, "start").integers(edges[0], max(edges[1], edges[0] + 1)))
        placed.append(Placed(key, clip, bucket, frame / clip.fps))
    return placed


def _sized(clip: Clip, kind: LatentKind, spec: LatentSpec) -> Bucket | Misfit:
    """A bucket without a length: the nearest aspect, and one of the sizes that the clip fills, drawn by its key."""
    aspect = nearest_aspect(clip.width, clip.height, spec.aspects)
    factor = spec.refined.space_factor if spec.refined else 1
    known = {size: sides(size, ASPECTS[aspect], spec.multiple) for size in sorted(spec.sizes)}
    filled = [
        size
        for size, (height, width) in known.items()
        if max(height * factor / clip.height, width * factor / clip.width) <= spec.max_upscale
    ]
    if not filled:
        return Misfit("too_small", "add a smaller size to sizes", f"{clip.width} x {clip.height} pixels")
    size = filled[int(drawn_by(spec.seed, clip.key, "size").integers(len(filled)))]
    height, width = known[size]
    return Bucket(kind, height, width, size, aspect)


def _last_frame_s(nominal: float, spec: LatentSpec, video: VideoCodecSpec) -> float:
    """When the last frame of such a clip is shown: a clip fills a length that has all its frames.

    So 5 s fill the 81 frames at 16 fps that last 5.0625 s; the sound of the last 62 ms is silence.
    """
    return (video.nearest_frames(nominal * spec.fps) - 1) / spec.fps


def _windows(clip: Clip, bucket: Bucket, spec: LatentSpec, seconds: float) -> Iterator[Placed]:
    """One window in each of as many equal stretches of the clip as there is room for, placed by the key.

    A window of an edit pair has the edit in at least half of it, where the edit is that long. A single window leaves
    room for a reference before or after it, where there is any.
    """
    first, last = clip.edited or (0.0, clip.seconds)
    if clip.edited is not None:
        first = max(0.0, min(first - seconds / 2, clip.seconds - seconds))
        last = min(clip.seconds, max(last + seconds / 2, first + seconds))
    count = max(1, min(spec.windows, int((last - first) / seconds)))
    stretch = (last - first) / count
    rate = clip.fps or _SOUND_STARTS
    for number in range(count):
        key = clip.key if count == 1 else f"{clip.key}-w{number}"
        start = first + number * stretch
        end = start + stretch
        if count == 1 and clip.edited is None and has_room(clip.seconds, seconds, spec):
            room = spec.reference_seconds + 1 / spec.fps
            start, end = (start + room, end) if drawn_by(spec.seed, key, "side").random() < 0.5 else (start, end - room)
        frames = math.ceil(start * rate - _ROUNDING), math.floor((end - seconds) * rate + _ROUNDING)
        frame = int(drawn_by(spec.seed, key, "start").integers(frames[0], max(frames) + 1))
        yield Placed(key, clip, bucket, frame / rate)


def _time_factor(spec: LatentSpec) -> int:
    return spec.refined.time_factor if spec.refined else 1
