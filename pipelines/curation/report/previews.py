"""Small versions of clips that play in any browser, and the choice of which clips to show."""

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import soundfile
from PIL import Image

from pipelines.curation.recipe import ShardConfig
from pipelines.curation.records import Kind, Rejection
from pipelines.dataset.buckets import bucket_of
from skyreels.leftovers import scratch_folder
from skyreels.media.decode import iter_video_frames
from skyreels.media.encode import write_video
from skyreels.media.image import read_image
from skyreels.media.probe import probe
from skyreels.media.sound import decode_audio

MAX_BYTES = 44_000  # of one preview; base64 makes it 59 kB in the page
_LONG_SIDE, _SHORT_SIDE = 240, 160  # pixels
_FPS = 15
_SOUND_RATE = 22_050  # Hz, mono
_SOUND_BIT_RATE = 32_000
# Seconds of the clip and x264's constant rate factor, tried in turn until the preview is small enough.
_ATTEMPTS = ((4.0, 30), (4.0, 34), (4.0, 38), (3.0, 42), (1.5, 46), (0.8, 51))
_JPEG_QUALITIES = (82, 70, 55, 40, 20)
_PEAKS = 80  # bars of a waveform
_CLIP_KEY = re.compile(r"[0-9a-f]{16}_\d{5}")  # as `records.clip_key` makes them
_KEPT = ""
_NOT_SHOWN = frozenset({"takedown"})


@dataclass(frozen=True)
class Preview:
    """A clip in at most `MAX_BYTES`: `data` plays or shows as `media_type`.

    A video has a `poster` (JPEG), a sound has `peaks` (loudness over time, 0 to 1). `seconds` is what of it plays.
    """

    key: str
    media_type: str
    data: bytes
    width: int = 0
    height: int = 0
    seconds: float = 0.0
    poster: bytes = b""
    peaks: tuple[float, ...] = ()

    @property
    def size(self) -> int:
        return len(self.data) + len(self.poster)


def choose_previews(
    clips: pa.Table,
    decisions: Mapping[str, Rejection | None],
    limit_per_group: int,
    shards: ShardConfig | None = None,
    limit: int = 60,
) -> list[str]:
    """Keys worth looking at, `limit` in all: a third kept clips, then of every reason up to `limit_per_group`.

    Kinds, buckets within them and reasons take turns, so that what is rare is seen as well. The choice depends on
    keys and decisions alone. A duplicate brings along the clip that it repeats. Clips that were not cut have no
    media, and what was taken down is not shown.
    """
    shards = shards or ShardConfig()
    groups: dict[str, list[tuple[str, str, str]]] = {}
    wanted = ("key", "kind", "width", "height", "start_s", "end_s", "stage")
    for row in clips.select(wanted).to_pylist():
        why = decisions[row["key"]]
        if row["stage"] is not None or (why is not None and why.stage in _NOT_SHOWN):
            continue
        group = _KEPT if why is None else f"{why.stage}:{why.reason}"
        bucket = bucket_of(Kind(row["kind"]), row["width"], row["height"], row["end_s"] - row["start_s"], shards)
        groups.setdefault(group, []).append((row["kind"], bucket, row["key"]))
    by_group = {name: _mixed(members) for name, members in sorted(groups.items())}
    kept = by_group.pop(_KEPT, [])
    rejected = _in_turns(keys[:limit_per_group] for keys in by_group.values())
    can_be_seen = {key for members in groups.values() for _, _, key in members}
    paired = [key for first in rejected for key in (first, retained_of(decisions[first])) if key in can_be_seen]
    share = max(limit // 3, limit - len(set(paired)))
    return list(dict.fromkeys([*kept[:share], *paired]))[:limit]


def retained_of(why: Rejection | None) -> str | None:
    """The key of the clip that a duplicate repeats, which its rejection's detail names."""
    named = _CLIP_KEY.search(why.detail) if why is not None and why.stage == "dedup" else None
    return named.group() if named else None


def make_preview(key: str, files: Mapping[str, bytes]) -> Preview:
    """A preview of a clip from its files by extension: `mp4` with or without `flac`, `flac` alone, or `jpg`."""
    with scratch_folder("preview") as folder:
        paths = {name: folder / f"clip.{name}" for name in files}
        for name, path in paths.items():
            path.write_bytes(files[name])
        if "mp4" in paths:
            return _of_video(key, paths["mp4"], paths.get("flac"))
        if "flac" in paths:
            return _of_sound(key, paths["flac"])
        if "jpg" in paths:
            return _of_image(key, paths["jpg"])
    raise ValueError(f"clip {key} has no mp4, flac or jpg to preview, only {', '.join(sorted(files)) or 'nothing'}")


def _of_video(key: str, video: Path, flac: Path | None) -> Preview:
    """The start of the clip as H.264 and AAC, with its middle frame as poster."""
    facts = probe(video)
    if facts.video is None:
        raise ValueError(f"clip {key}: its mp4 has no picture")
    width, height = (max(2, side // 2 * 2) for side in _fitted(*facts.video.display_size))
    step = max(1, round(facts.video.fps_float / _FPS))
    fps = Fraction(facts.video.fps_float / step).limit_denominator(1001)
    longest = _ATTEMPTS[0][0]
    pictures = [
        frame.rgb(width, height)
        for index, frame in enumerate(iter_video_frames(video, facts, end_s=longest))
        if index % step == 0
    ]
    sound = None
    if flac is not None:
        sound = decode_audio(flac, end_s=longest, sample_rate=_SOUND_RATE, mono=True).samples
    poster = _jpeg(pictures[len(pictures) // 2], _JPEG_QUALITIES[1])
    small = video.with_name("small.mp4")
    for seconds, crf in _ATTEMPTS:
        count = write_video(
            small,
            pictures[: max(1, round(seconds * fps))],
            fps,
            audio=None if sound is None else sound[:, : round(seconds * _SOUND_RATE)],
            sample_rate=_SOUND_RATE,
            crf=crf,
            preset="fast",
            audio_bit_rate=_SOUND_BIT_RATE,
        )
        if small.stat().st_size + len(poster) <= MAX_BYTES:
            break
    return Preview(key, "video/mp4", small.read_bytes(), width, height, float(count / fps), poster)


def _of_sound(key: str, flac: Path) -> Preview:
    """The start of the clip as MP3, which every browser plays, with its peaks."""
    samples = decode_audio(flac, end_s=_ATTEMPTS[0][0], sample_rate=_SOUND_RATE, mono=True).samples[0]
    buffer = io.BytesIO()
    options = {"format": "MP3", "bitrate_mode": "CONSTANT", "compression_level": 0.8}
    soundfile.write(buffer, np.clip(samples, -1, 1), _SOUND_RATE, **options)
    peaks = tuple(round(float(np.abs(block).max(initial=0)), 3) for block in np.array_split(samples, _PEAKS))
    return Preview(key, "audio/mpeg", buffer.getvalue(), seconds=len(samples) / _SOUND_RATE, peaks=peaks)


def _of_image(key: str, jpg: Path) -> Preview:
    picture = Image.fromarray(read_image(jpg))
    picture.thumbnail((2 * _LONG_SIDE, 2 * _SHORT_SIDE), Image.Resampling.LANCZOS)
    data = b""
    for quality in _JPEG_QUALITIES:
        data = _jpeg(np.asarray(picture), quality)
        if len(data) <= MAX_BYTES:
            break
    return Preview(key, "image/jpeg", data, picture.width, picture.height)


def _fitted(width: int, height: int) -> tuple[int, int]:
    """The size of that shape within the preview's sides; never larger than it was."""
    scale = min(1.0, _LONG_SIDE / max(width, height), _SHORT_SIDE / min(width, height))
    return round(width * scale), round(height * scale)


def _jpeg(picture: np.ndarray, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def _mixed(members: Sequence[tuple[str, str, str]]) -> list[str]:
    """Keys of (kind, bucket, key): kinds take turns, and so do the buckets of a kind."""
    tree: dict[str, dict[str, list[str]]] = {kind: {} for kind in Kind}
    for kind, bucket, key in sorted(members):
        tree[kind].setdefault(bucket, []).append(key)
    return _in_turns(_in_turns(buckets.values()) for buckets in tree.values())


def _in_turns(queues: Iterable[Sequence[str]]) -> list[str]:
    """One of each, then the second of each, and so on: A B A B A."""
    lined_up = [list(queue) for queue in queues]
    longest = max(map(len, lined_up), default=0)
    return [queue[place] for place in range(longest) for queue in lined_up if place < len(queue)]
