"""Where text and logos lie over a video, and when: boxes with room around them, for whoever takes them away."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.overlays.borders import crop_box, lit_profiles
from pipelines.overlays.marks import fixed_marks
from pipelines.overlays.overlaid_text import sort_text
from pipelines.overlays.text import TextLine

OverlayKind = Literal["text", "logo"]
"""Letters (subtitles, captions, names), or a mark that stands in one place all the time (logos, watermarks)."""

SHORT_SIDE = 256
"""Pixels of the samples that are looked at, at the most."""
_APART_S = 0.5  # between samples that are compared: a hand moves the scene so far
_MOST_APART_S = 0.25
_LEAST_SAMPLES = 12
_LASTING_S = 1.0  # in sight in all: what two characters take at the least
_HARDLY_MISSED = 0.75  # share of the samples from the first to the last, in which these are seen
_SAME = 0.5  # share of two boxes' union that they have in common where they are one line of text
_TEXT_ROOM = (0.35, 0.25)  # around a line, of its height: rims, shadows, what hangs below; along and across
_MARK_ROOM = 0.12  # around a mark, of its shorter side
_WIDEST_MARK = 0.5  # of the picture's side: what is longer is the edge of a bar, or a line of text
_LEAST_ROOM = 3  # pixels of a sample
_RIM = 3  # pixels of a sample, where scaling leaves edges that never move


class Area(NamedTuple):
    """A box in shares of the picture's sides."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Overlay:
    """What is laid over the picture in `area` from `start_s` to `end_s` after the video's first picture."""

    kind: OverlayKind
    area: Area
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Found:
    """`unsure` says that logos were asked for and cannot be told from a scene that stands still, or is one picture."""

    overlays: list[Overlay]
    unsure: bool = False


def cover(
    mask: NDArray[np.bool_], box: Sequence[float], side: tuple[float, float], start_s: float, end_s: float, fps: float
) -> None:
    """Make (F, H, W) True, at `fps` frames a second, where any of a box shows from `start_s` to `end_s`.

    The box is left, top, right and bottom, in units of which the picture is `side` (wide, high).
    """
    left, top, right, bottom = box
    across, down = mask.shape[2] / side[0], mask.shape[1] / side[1]
    rows = slice(max(0, math.floor(top * down)), math.ceil(bottom * down))
    columns = slice(max(0, math.floor(left * across)), math.ceil(right * across))
    mask[math.floor(start_s * fps) : math.ceil(end_s * fps) + 1, rows, columns] = True


def sample_interval(duration_s: float, fps: float) -> float:
    """Seconds between the samples that `find_overlays` wants of a video."""
    return max(1 / fps, min(_MOST_APART_S, duration_s / _LEAST_SAMPLES))


def find_overlays(lumas: Sequence[NDArray[np.uint8]], interval_s: float, kinds: Collection[OverlayKind]) -> Found:
    """What of `kinds` lies over (H, W) samples of equal size, `interval_s` apart, in time order."""
    found, unsure = [], False
    if "text" in kinds:
        found += _text(lumas, interval_s)
    if "logo" in kinds:
        marks = _marks(lumas)
        unsure = marks is None
        found += [Overlay("logo", area, 0.0, len(lumas) * interval_s) for area in marks or []]
    return Found(found, unsure)


@dataclass
class _Track:
    """A line of text through samples `first` to `last`, in pixels: left, top, right, bottom."""

    box: tuple[float, float, float, float]
    first: int
    last: int
    seen: int = 1
    long: bool = False  # in any of them

    def is_text(self, lasting: int) -> bool:
        """A short one must be seen in so many samples, and hardly be missed: parts of a scene look like it at times."""
        return self.long or self.seen >= max(lasting, _HARDLY_MISSED * (self.last - self.first + 1))


def _text(lumas: Sequence[NDArray[np.uint8]], interval_s: float) -> list[Overlay]:
    """Lines that stay where they are; one that is missed in between is there all the same."""
    apart = max(1, min(round(_APART_S / interval_s), len(lumas) // 4))
    tracks: list[_Track] = []
    for at, lines in enumerate(sort_text(lumas, apart, short=True).laid_over):
        for line in lines:
            box = _pixels(line, lumas[at].shape)
            same = [track for track in tracks if at - track.last <= 2 * apart and _shared(track.box, box) >= _SAME]
            if same:
                track = same[-1]
                track.box, track.last, track.seen = _union(track.box, box), at, track.seen + 1
            else:
                track = _Track(box, at, at)
                tracks.append(track)
            track.long |= not line.short
    overlays = []
    lasting = min(round(_LASTING_S / interval_s), _LEAST_SAMPLES)
    for track in (track for track in tracks if track.is_text(lasting)):
        height = track.box[3] - track.box[1]
        area = _with_room(track.box, _TEXT_ROOM[0] * height, _TEXT_ROOM[1] * height, lumas[0].shape)
        start, end = max(0, track.first - 1), min(len(lumas), track.last + 2)  # it came and went between samples
        overlays.append(Overlay("text", area, start * interval_s, end * interval_s))
    return overlays


def _marks(lumas: Sequence[NDArray[np.uint8]]) -> list[Area] | None:
    """Marks inside of black bars; None where they cannot be told from the scenery."""
    height, width = lumas[0].shape
    rows, columns = (np.stack(profiles) for profiles in zip(*map(lit_profiles, lumas), strict=True))
    crop = crop_box(rows, columns, width, height)
    left, top = crop.x + _RIM, crop.y + _RIM
    right, bottom = crop.x + crop.width - _RIM, crop.y + crop.height - _RIM
    marks = fixed_marks([luma[top:bottom, left:right] for luma in lumas])
    if marks is None or not marks.sure:
        return None
    areas = []
    for x, y, w, h in marks.boxes:
        if w > _WIDEST_MARK * width or h > _WIDEST_MARK * height:
            continue
        room, box = _MARK_ROOM * min(w, h), (left + x, top + y, left + x + w, top + y + h)
        areas.append(_with_room(box, room, room, (height, width)))
    return areas


def sample_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) of samples of a video of that size."""
    scale = min(1.0, SHORT_SIDE / min(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def sample_luma(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W) of (H, W, 3)."""
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)


def _pixels(line: TextLine, shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    height, width = shape
    left, top = line.x * width, line.y * height
    return left, top, left + line.width * width, top + line.height * height


def _with_room(box: tuple[float, ...], along: float, across: float, shape: tuple[int, ...]) -> Area:
    height, width = shape
    along, across = max(along, _LEAST_ROOM), max(across, _LEAST_ROOM)
    left, top, right, bottom = box
    return Area(
        max(0.0, (left - along) / width),
        max(0.0, (top - across) / height),
        min(1.0, (right + along) / width),
        min(1.0, (bottom + across) / height),
    )


def _union(a: tuple[float, ...], b: tuple[float, ...]) -> tuple[float, float, float, float]:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def _shared(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)
