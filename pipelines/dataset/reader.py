"""Curated samples as a trainer reads them: the rows of a dataset, and exactly the frames and sound that are wanted."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Literal

import decord
import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from model.media import cover
from pipelines.dataset.caption_parts import CaptionParts, window
from pipelines.dataset.manifest import MANIFEST, Sample, samples_in
from pipelines.dataset.parts_of_table import fingerprint, is_there, tables_of
from pipelines.dataset.tables import members_of
from skyreels.media.errors import MediaError
from skyreels.shards import Member, read_member
from skyreels.storage import DamageError, MissingError, Storage, normalise

ClipKind = Literal["image", "video", "audio", "pair"]
CAPTION_FORMS = ("short", "long", "structured")
"""From the least to the fullest."""

Times = Sequence[float] | NDArray[np.float64]
"""Seconds from the start of a clip."""

_EARLY_S = 1e-6  # a frame's own time, computed twice, may differ by rounding
_MARGIN_S = 0.02  # more sound than a resampling filter is long
_FRAMES_AT_ONCE = 16
_REMEDY = "Run `jobs/curate.py verify` on the output that holds the dataset, or restore the shard."


@dataclass(frozen=True)
class Clip:
    """One curated sample: a clip, a picture or a sound. Sizes in pixels; `members` say where its files lie.

    `caption_parts`: what captions with times are made of. `edited` is of an edit pair: the seconds between which the
    edit shows.
    """

    key: str
    kind: ClipKind
    width: int
    height: int
    fps: float
    frames: int
    seconds: float
    has_audio: bool
    captions: Mapping[str, str]
    members: Mapping[str, Member]
    caption_parts: str = "[]"
    edited: tuple[float, float] | None = None

    def captions_between(self, start_s: float, end_s: float) -> Mapping[str, str]:
        """Its captions as they are true of a window; a picture is a window without length."""
        told = [CaptionParts.model_validate(parts) for parts in json.loads(self.caption_parts)]
        return window(self.captions, told, start_s, end_s) if told else self.captions


@dataclass(frozen=True)
class ClipDataset:
    """A dataset folder of `jobs/curate.py`. `fingerprint` changes with its samples, their captions or places."""

    storage: Storage
    clips: tuple[Clip, ...]
    fingerprint: str


def open_dataset(location: str) -> ClipDataset:
    """Read the manifest of a dataset folder, local or s3://. Raises FileNotFoundError where there is none."""
    storage = Storage(normalise(location))
    if not is_there(storage, MANIFEST):
        raise FileNotFoundError(
            f"{storage.location(MANIFEST)} does not exist: give the folder of a dataset, such as "
            "data/datasets/default, or make one with jobs/curate.py"
        )
    where = storage.location(MANIFEST)
    rows = (row for table in tables_of(storage, MANIFEST) for row in samples_in(table, where))
    return ClipDataset(storage, tuple(map(_clip, rows)), fingerprint(storage, MANIFEST))


def member_bytes(storage: Storage, clip: Clip, extension: str) -> bytes:
    """One file of a sample, by a ranged read. Raises MediaError that names shard and member."""
    member = clip.members[extension]
    where = f"{storage.location(member.shard)}: {clip.key}.{extension}"
    try:
        return read_member(storage, member)
    except MissingError as error:
        raise MediaError("missing_shard", _REMEDY, where) from error
    except DamageError as error:
        raise MediaError("damaged_shard", _REMEDY, f"{where}: {error}") from error


class VideoFile:
    """The frames of an MP4 by the time they are shown at. `where` names it in errors."""

    def __init__(self, data: bytes, where: str) -> None:
        self.where = where
        try:
            self._reader = decord.VideoReader(io.BytesIO(data), num_threads=1)
            self._starts = self._reader.get_frame_timestamp(range(len(self._reader)))[:, 0]
        except (decord.DECORDError, RuntimeError, IndexError) as error:
            raise self._unreadable(error) from error

    def shown_at(self, times: Times) -> list[int]:
        """The frame on screen at each of `times` (seconds); the last one stays after the end."""
        places = np.searchsorted(self._starts, np.asarray(times) + _EARLY_S, side="right") - 1
        return np.maximum(places, 0).tolist()

    def read(self, times: Times, height: int, width: int) -> Tensor:
        """(3, F, height, width) in [-1, 1]: the frames shown at `times`, scaled to cover the size, their middle."""
        indices = self.shown_at(times)
        parts = []
        for start in range(0, len(indices), _FRAMES_AT_ONCE):
            try:
                frames = self._reader.get_batch(indices[start : start + _FRAMES_AT_ONCE]).asnumpy()
            except decord.DECORDError as error:
                raise self._unreadable(error) from error
            parts.append(_covered(frames, height, width))
        return torch.cat(parts, 1)

    def _unreadable(self, error: Exception) -> MediaError:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        return MediaError("unreadable_video", _REMEDY, f"{self.where}: {said}")


def open_video(storage: Storage, clip: Clip, extension: str = "mp4") -> VideoFile:
    """The frames of a curated clip."""
    data = member_bytes(storage, clip, extension)
    return VideoFile(data, f"{storage.location(clip.members[extension].shard)}: {clip.key}.{extension}")


def read_sound(storage: Storage, clip: Clip, start_s: float, samples: int, *, sample_rate: int, stereo: bool) -> Tensor:
    """(2 or 1, samples) float32 of a clip's sound from `start_s` on; silence after its end."""
    data = member_bytes(storage, clip, "flac")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            waveform = _span(file, start_s, samples, sample_rate)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        where = f"{storage.location(clip.members['flac'].shard)}: {clip.key}.flac: {error}"
        raise MediaError("unreadable_sound", _REMEDY, where) from error
    return fitted_sound(waveform, samples, stereo=stereo)


def fitted_sound(waveform: np.ndarray, samples: int, *, stereo: bool) -> Tensor:
    """(channels, n) as (2 or 1, samples) float32: cut or followed by silence; mono is heard on both sides."""
    held = waveform[:, :samples]
    if stereo:
        held = held[:2] if len(held) > 1 else held.repeat(2, axis=0)
    else:
        held = held.mean(0, keepdims=True)
    padded = np.pad(held, ((0, 0), (0, samples - held.shape[1])))
    return torch.from_numpy(np.ascontiguousarray(padded, np.float32))


def read_image(storage: Storage, clip: Clip, height: int, width: int) -> Tensor:
    """(3, height, width) in [-1, 1] of a curated picture, scaled to cover the size, its middle."""
    data = member_bytes(storage, clip, "jpg")
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            array = np.array(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        where = f"{storage.location(clip.members['jpg'].shard)}: {clip.key}.jpg: {error}"
        raise MediaError("unreadable_image", _REMEDY, where) from error
    return _covered(array[None], height, width)[:, 0]


def _covered(frames: np.ndarray, height: int, width: int) -> Tensor:
    """(F, h, w, 3) uint8 -> (3, F, height, width) in [-1, 1]; bytes are scaled to [-1, 1] when they are few."""
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2).float()
    return (cover(pixels, height, width) / 127.5 - 1).clamp(-1, 1)


def _clip(row: Sample) -> Clip:
    fps = row["fps"] or 0.0
    seconds = row["frames"] / fps if row["kind"] == "video" else row["end_s"] - row["start_s"]
    captions = {
        "short": row.get("caption_short"),
        "long": row.get("caption_long"),
        "structured": row.get("caption_structured"),
    }
    return Clip(
        key=row["key"],
        kind=row["kind"],
        width=row["width"],
        height=row["height"],
        fps=fps,
        frames=row["frames"],
        seconds=seconds,
        has_audio=bool(row["has_audio"]),
        captions={form: text for form, text in captions.items() if text},
        members=members_of(row),
        caption_parts=row.get("caption_parts") or "[]",
    )


def _span(file: soundfile.SoundFile, start_s: float, samples: int, sample_rate: int) -> np.ndarray:
    """(channels, n <= samples) at `sample_rate`; n is smaller where the file ends."""
    rate = file.samplerate
    if rate == sample_rate:
        file.seek(min(round(start_s * rate), file.frames))
        return np.asarray(file.read(samples, dtype="float32", always_2d=True).T)
    lead = min(round(_MARGIN_S * rate), round(start_s * rate))
    first = round(start_s * rate) - lead
    wanted = lead + -(-samples * rate // sample_rate) + round(_MARGIN_S * rate)
    from scipy.signal import resample_poly  # takes a second that workers on cached latents need not spend

    file.seek(min(first, file.frames))
    read = file.read(wanted, dtype="float32", always_2d=True).T
    common = gcd(rate, sample_rate)
    resampled = resample_poly(read, sample_rate // common, rate // common, axis=1)
    cut = round(lead * sample_rate / rate)
    return np.asarray(resampled[:, cut : cut + samples])
