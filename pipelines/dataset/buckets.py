"""Buckets: clips of like shape and length share shards, so that a trainer reads batches of one shape."""

from bisect import bisect_right
from collections.abc import Iterable

from pydantic import PositiveFloat, PositiveInt

from pipelines.dataset.manifest import Kind
from skyreels.config import Config

ASPECTS = {"16x9": 16 / 9, "4x3": 4 / 3, "1x1": 1.0, "3x4": 3 / 4, "9x16": 9 / 16}


class BucketSteps(Config):
    """Short sides in pixels and lengths in seconds at which buckets begin."""

    short_sides: tuple[PositiveInt, ...] = (256, 480, 720, 1080)
    seconds: tuple[PositiveFloat, ...] = (2, 5, 10, 15)


def bucket_of(kind: Kind, width: int, height: int, seconds: float, steps: BucketSteps) -> str:
    """Such as `video-480p-16x9-5s`: the largest size and length it fills, the nearest aspect ratio."""
    if kind is Kind.AUDIO:
        return f"audio-{_floor(steps.seconds, seconds):g}s"
    size = f"{kind.value}-{_floor(steps.short_sides, min(width, height)):g}p-{nearest_aspect(width, height)}"
    return size if kind is Kind.IMAGE else f"{size}-{_floor(steps.seconds, seconds):g}s"


def nearest_aspect(width: int, height: int, among: Iterable[str] = tuple(ASPECTS)) -> str:
    """By ratio of ratios, so that 2:1 is as far from 1:1 as 1:2."""
    ratio = width / height
    return min(among, key=lambda name: max(ratio / ASPECTS[name], ASPECTS[name] / ratio))


def _floor(steps: tuple[float, ...], value: float) -> float:
    """The largest step not above the value; below the first step, 0."""
    ordered = sorted(steps)
    place = bisect_right(ordered, value + 1e-6)
    return ordered[place - 1] if place else 0
