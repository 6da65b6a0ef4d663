"""Media to arrays, run in the sandbox's child: no torch here, and what is large goes through a `.npy` file."""

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from pipelines.overlays.find import OverlayKind, find_overlays, sample_interval, sample_luma, sample_size
from skyreels.config import Config
from skyreels.media.cut import Grid
from skyreels.media.decode import iter_video_frames
from skyreels.media.errors import MediaError
from skyreels.media.facts import Probe
from skyreels.media.image import read_image
from skyreels.media.picture import DecodedFrame
from skyreels.media.probe import probe
from skyreels.media.sound import full_scale_gain, iter_audio

ARRAY = "array.npy"
_MIDDLE_GREY = 127
_NOTHING = 1e-3


class PicturesWanted(Config):
    """Pictures of `path`, a video or one image, stretched to `size` (width, height); of a video `fps` a second.

    With `as_mask` the array is bool: True where any of what a pixel shows is brighter than middle grey.
    """

    path: Path
    probe: Probe
    size: tuple[int, int]
    fps: float
    as_mask: bool = False


class OverlaysWanted(Config):
    """What of `kinds` is laid over `path`, a video or one image."""

    path: Path
    probe: Probe
    kinds: tuple[OverlayKind, ...]


class SoundWanted(Config):
    """The sound of `path` from `start_s` on, silence where it begins later; one channel is repeated where two are
    wanted, several are averaged where one is.
    """

    path: Path
    probe: Probe
    start_s: float = 0.0
    sample_rate: int
    channels: int


def probe_file(request: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """The `Probe` of the file at `path`."""
    return probe(request["path"]).model_dump(mode="json")


def decode_pictures(request: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """Write (F, H, W, 3) uint8, or (F, H, W) bool of a mask, to `scratch`."""
    wanted = PicturesWanted.model_validate(request)
    count, pictures = _pictures(wanted)
    width, height = wanted.size
    shape = (count, height, width) if wanted.as_mask else (count, height, width, 3)
    kind = np.dtype(bool if wanted.as_mask else np.uint8)
    array = np.lib.format.open_memmap(scratch / ARRAY, "w+", kind, shape)
    for place, picture in zip(array, pictures, strict=True):
        place[:] = picture
    array.flush()
    return {}


def detect_overlays(request: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """As `Found`, each overlay a list of its fields."""
    wanted = OverlaysWanted.model_validate(request)
    cv2.setNumThreads(1)
    image, video, interval_s = wanted.probe.image, wanted.probe.video, 1.0
    if image is not None:
        size = sample_size(image.width, image.height)
    elif video is not None:
        size = sample_size(*video.display_size)
        interval_s = sample_interval(video.duration_s, video.fps_float)
    pictures = PicturesWanted(path=wanted.path, probe=wanted.probe, size=size, fps=1 / interval_s)
    _, shown = _pictures(pictures)
    found = find_overlays([sample_luma(picture) for picture in shown], interval_s, wanted.kinds)
    overlays = [[one.kind, list(one.area), one.start_s, one.end_s] for one in found.overlays]
    return {"overlays": overlays, "unsure": found.unsure}


def decode_sound(request: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """Write (channels, samples) float32 to `scratch`."""
    wanted = SoundWanted.model_validate(request)
    mono = wanted.channels == 1
    blocks = iter_audio(
        wanted.path,
        wanted.probe,
        start_s=wanted.start_s,
        sample_rate=wanted.sample_rate,
        mono=mono,
        stereo=not mono,
    )
    samples = [block.samples for block in blocks]
    if not samples:
        raise MediaError("no_samples", "Send a file whose sound track holds sound.", wanted.path.name)
    joined = np.concatenate(samples, axis=1)
    joined *= np.float32(full_scale_gain(joined))
    np.save(scratch / ARRAY, np.broadcast_to(joined, (wanted.channels, joined.shape[1])), allow_pickle=False)
    return {}


def _pictures(wanted: PicturesWanted) -> tuple[int, Iterator[np.ndarray]]:
    """How many pictures there are, and each as it is wanted."""
    if wanted.probe.image is not None:
        picture = read_image(wanted.path)
        return 1, iter([_marked(picture, wanted.size) if wanted.as_mask else _fitted(picture, wanted.size)])
    info = wanted.probe.video
    if info is None:
        raise MediaError("no_video_stream", "Send a file with a picture.", wanted.path.name)
    rate = Fraction(wanted.fps).limit_denominator(1001)
    count = max(1, math.floor(info.duration_s * rate + Fraction(1, 2)))
    frames = Grid(info.start_s, rate, count).pick(iter_video_frames(wanted.path, wanted.probe))
    return count, (_shown(frame, wanted) for frame in frames)


def _shown(frame: DecodedFrame, wanted: PicturesWanted) -> np.ndarray:
    return _marked(frame.rgb(), wanted.size) if wanted.as_mask else frame.rgb(*wanted.size)


def _fitted(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if _size(picture) == size:
        return picture
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0))


def _marked(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    marked = picture.mean(axis=-1) > _MIDDLE_GREY
    if _size(picture) == size:
        return marked
    return np.asarray(Image.fromarray(marked.astype(np.float32)).resize(size, Image.Resampling.BOX)) > _NOTHING


def _size(picture: np.ndarray) -> tuple[int, int]:
    """(width, height)."""
    return picture.shape[1], picture.shape[0]
