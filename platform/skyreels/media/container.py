"""Opening a container so that it can reach nothing but its own bytes."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import av
import av.error
import av.logging
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from skyreels.media.errors import MediaError
from skyreels.media.limits import MediaLimits
from skyreels.media.sniff import DEMUXERS, IMAGES, sniff

# Python log callbacks take the GIL from decoder threads and can deadlock; FFmpeg then writes to stderr instead.
av.logging.restore_default_callback()
av.logging.set_libav_level(av.logging.FATAL)

_READ_BYTES = 64 * 1024
_STILL = Disposition.attached_pic | Disposition.timed_thumbnails
_FOR_SOME = (
    Disposition.hearing_impaired
    | Disposition.visual_impaired
    | Disposition.karaoke
    | Disposition.clean_effects
    | Disposition.non_diegetic
    | Disposition.descriptions
    | Disposition.dependent
)


@contextmanager
def open_container(path: str | Path, limits: MediaLimits) -> Iterator[InputContainer]:
    """`path` as an FFmpeg input whose demuxer is forced by `sniff` and which may open no other file or URL.

    FFmpeg errors raised inside the block come out as `MediaError`.
    """
    path = Path(path)
    kind = sniff(path)
    if kind in IMAGES:
        raise MediaError("is_image", "Read pictures with read_image.", f"{path.name} is {kind}")
    check_file_bytes(path, limits)
    demuxer = DEMUXERS[kind]
    options = {
        "format_whitelist": av.format.ContainerFormat(demuxer, "r").name,
        "protocol_whitelist": "file",
        # Header analysis decodes a few frames too: the caps must hold there already.
        "max_pixels": str(limits.max_pixels),
        "threads": "1",
    }
    with path.open("rb", buffering=0) as file:
        try:
            with av.open(
                file,
                "r",
                format=demuxer,
                options=options,
                buffer_size=_READ_BYTES,
                io_open=_refuse,
                metadata_errors="replace",
            ) as container:
                yield container
        except (av.error.FFmpegError, OSError) as error:
            raise media_error(error, path) from error


def read_packets(
    container: InputContainer, *streams: Stream, failed: Callable[[Exception], None]
) -> Iterator["Packet[Stream]"]:
    """The packets of `streams`; where the file can be read no further, `failed` is told and what came before stands.

    As at a proper end, the last packet of each stream is empty: it makes a decoder give what it still holds.
    """
    try:
        yield from container.demux(*streams)
    except (av.error.FFmpegError, IndexError) as error:  # PyAV has no name for a stream that appears in mid-file
        failed(error)
        for stream in streams:
            end = Packet()
            end.stream = stream
            yield end


def check_file_bytes(path: Path, limits: MediaLimits) -> None:
    limits.check_bytes(path.stat().st_size, path.name)


def check_pixels(width: int, height: int, limits: MediaLimits, path: Path) -> None:
    if width * height > limits.max_pixels:
        raise MediaError(
            "too_many_pixels", f"Scale it below {limits.max_pixels} pixels.", f"{path.name} is {width}x{height}"
        )


def video_stream(container: InputContainer) -> VideoStream | None:
    """The default stream of moving pictures, else the first; cover art and thumbnails are none."""
    moving = [s for s in container.streams.video if not s.disposition & _STILL]
    return next((s for s in moving if s.disposition & Disposition.default), moving[0] if moving else None)


def sound_streams(container: InputContainer) -> list[AudioStream]:
    """The streams that may be heard, the likeliest first: default ones, then any, then those for some listeners alone.

    Commentary is taken only where there is nothing else at all, not even a picture.
    """
    known = [s for s in container.streams.audio if s.codec_context is not None]
    proper = [s for s in known if not is_commentary(s)]
    if not proper and video_stream(container) is None:
        proper = known
    return sorted(proper, key=lambda s: (bool(s.disposition & _FOR_SOME), not s.disposition & Disposition.default))


def is_commentary(stream: AudioStream) -> bool:
    """Whether somebody talks about the picture: by its flag, or by its title, as many files have it."""
    return bool(stream.disposition & Disposition.comment) or "commentary" in stream.metadata.get("title", "").lower()


def clock_zero_s(container: InputContainer) -> float:
    """The container time that counts as zero: its first presentation, but never before the clock's own zero.

    What lies at negative times is codec priming or hidden by an edit list; a transport stream starts anywhere.
    """
    return max(container.start_time or 0, 0) / 1_000_000


def media_error(error: BaseException, path: Path) -> MediaError:
    """The `MediaError` for what FFmpeg or the file system said about `path`."""
    if isinstance(error, MediaError):
        return error
    detail = f"{path.name}: {error}"
    if isinstance(error, MemoryError):
        return MediaError("memory_limit", "Raise memory_bytes or send a smaller picture.", detail)
    if mp4_is_truncated(path):
        return MediaError("truncated", "Fetch the file again: its end, which holds the index, is missing.", detail)
    return MediaError("unreadable", "Play it in another program; if that fails too, fetch it again.", detail)


def mp4_is_truncated(path: Path) -> bool:
    """Whether `path` is an mp4 whose top-level boxes promise more bytes than the file has, or hold no index."""
    boxes = mp4_boxes(path)
    if not boxes:
        return False
    _, start, size = boxes[-1]
    return start + size > path.stat().st_size or all(name != b"moov" for name, _, _ in boxes)


def mp4_boxes(path: Path) -> list[tuple[bytes, int, int]]:
    """(name, offset, size) of the top-level boxes of an mp4 (ISO 14496-12 section 4.2); [] for other containers."""
    boxes: list[tuple[bytes, int, int]] = []
    with path.open("rb") as file:
        end = os.fstat(file.fileno()).st_size
        start = 0
        while start + 8 <= end and len(boxes) < 10_000:
            file.seek(start)
            header = file.read(16)
            size, name = int.from_bytes(header[:4], "big"), header[4:8]
            if not name.isalnum() and not name.strip().isalnum():
                return boxes
            if size == 1:
                size = int.from_bytes(header[8:16], "big")
            elif size == 0:
                size = end - start
            if size < 8:
                return boxes
            boxes.append((name, start, size))
            start += size
    return boxes


def _refuse(url: str, flags: int, options: dict[str, Any]) -> NoReturn:
    raise PermissionError(f"the file asks to open {url!r}")
