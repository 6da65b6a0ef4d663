"""What a media file holds: one demux of the whole file and one decoded picture, so that no header is taken on trust."""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import cast

import av.error
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc
from av.video.stream import VideoStream

from skyreels.media.animation import is_animated, probe_animation
from skyreels.media.clock import Stamps, shifts
from skyreels.media.container import (
    check_file_bytes,
    check_pixels,
    clock_zero_s,
    mp4_is_truncated,
    open_container,
    read_packets,
    video_stream,
)
from skyreels.media.errors import MediaError
from skyreels.media.facts import AudioInfo, ClockShift, Probe, VideoInfo
from skyreels.media.frame_rate import frame_rate
from skyreels.media.image import probe_image
from skyreels.media.limits import DEFAULT_LIMITS, MediaLimits
from skyreels.media.orientation import orientation_of
from skyreels.media.plain import alpha_decoder, has_alpha
from skyreels.media.rest import unread_bytes
from skyreels.media.sniff import IMAGES, sniff
from skyreels.media.sound import first_heard

_FIRST_PICTURE_PACKETS = 64
_HDR_TRANSFERS = frozenset({"smpte2084", "arib_std_b67"})
# Containers whose header states the duration; elsewhere FFmpeg estimates it from the bit rate.
_STATED_DURATION = frozenset({"mp4", "matroska", "avi", "wav", "flac", "aiff"})


def probe(path: str | Path, limits: MediaLimits = DEFAULT_LIMITS) -> Probe:
    """Facts about the video, sound or picture at `path`.

    Raises `MediaError`: `no_streams`, `zero_length_stream`, `too_many_pixels`, `too_many_frames`, `too_long`,
    `unsupported_codec`, `truncated`, `unreadable`, `file_too_large`, and what `sniff` raises.
    """
    path = Path(path)
    kind = sniff(path)
    if kind in IMAGES:
        check_file_bytes(path, limits)
        moving = probe_animation(path, limits) if is_animated(path, kind, limits) else None
        return Probe(
            container=kind,
            file_bytes=path.stat().st_size,
            duration_s=moving.duration_s if moving else 0.0,
            clock_zero_s=0.0,
            truncated=False,
            video=moving,
            image=None if moving else probe_image(path, limits),
        )
    heard = first_heard(path, limits)
    with open_container(path, limits) as container:
        return _probe_container(container, path, kind, heard, limits)


@dataclass
class _Track:
    """The packets of one stream, in file order, in units of its time base."""

    stamps: Stamps = field(default_factory=Stamps)
    pts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    keys: list[bool] = field(default_factory=list)
    hidden: list[bool] = field(default_factory=list)
    picture: VideoFrame | None = None
    shifts: tuple[ClockShift, ...] = ()
    read_to: int = 0  # bytes of the file

    def add(self, packet: "Packet[Stream]", place: int) -> None:
        pts = packet.pts if packet.pts is not None else packet.dts
        if pts is None:
            pts = self.ends[-1] if self.ends else 0
        self.pts.append(pts)
        self.ends.append(pts + (packet.duration or 0))
        self.keys.append(packet.is_keyframe)
        self.hidden.append(packet.is_discard)
        self.read_to = max(self.read_to, (packet.pos or 0) + packet.size)
        base = float(packet.time_base)
        self.stamps.add(pts * base, self.ends[-1] * base, None if packet.dts is None else packet.dts * base, place)

    def move(self, moves: tuple[ClockShift, ...], base: Fraction | None) -> None:
        """Bring the stamps onto the one clock."""
        self.shifts = moves
        for number, move in enumerate(moves if base else ()):
            ticks = round(move.seconds / base)  # type: ignore[operator]
            last = moves[number + 1].packet if number + 1 < len(moves) else len(self.pts)
            for index in range(move.packet, last):
                self.pts[index] += ticks
                self.ends[index] += ticks


def _probe_container(container: InputContainer, path: Path, kind: str, heard: int | None, limits: MediaLimits) -> Probe:
    video = video_stream(container)
    audio = next((s for s in container.streams.audio if s.index == heard), None)
    if video is None and audio is None:
        raise MediaError("no_streams", "Send a file with a picture or a sound track.", path.name)
    if video is not None:
        if video.codec_context is None:
            raise MediaError("unsupported_codec", "Convert the picture to H.264.", path.name)
        check_pixels(video.codec_context.width, video.codec_context.height, limits, path)
    zero = clock_zero_s(container)
    tracks, broken = _read_tracks(container, video, audio, limits, path)
    moves, breaks = shifts([track.stamps for track in tracks.values()], kind)
    for (index, track), some in zip(tracks.items(), moves, strict=True):
        track.move(some, container.streams[index].time_base)
    pictures = None if video is None else _video_info(video, tracks[video.index], zero)
    sound = None if audio is None else _audio_info(audio, tracks[audio.index], zero)
    duration = max((info.start_s + info.duration_s for info in (pictures, sound) if info), default=0.0)
    if duration <= 0:
        raise MediaError("zero_length_stream", "Fetch the file again: its streams hold no packets.", path.name)
    if duration > limits.max_duration_s:
        raise MediaError("too_long", f"Split it below {limits.max_duration_s:g} s.", f"{path.name} is {duration:.1f} s")
    return Probe(
        container=kind,
        file_bytes=path.stat().st_size,
        duration_s=duration,
        clock_zero_s=zero,
        truncated=bool(broken) or _is_truncated(path, kind, container, pictures, duration),
        video=pictures,
        audio=sound,
        clock_breaks_s=tuple(time_s - zero for time_s in breaks),
        unread_bytes=unread_bytes(path, kind, max(track.read_to for track in tracks.values())),
    )


def _read_tracks(
    container: InputContainer,
    video: VideoStream | None,
    audio: AudioStream | None,
    limits: MediaLimits,
    path: Path,
) -> tuple[dict[int, _Track], list[Exception]]:
    """Demux everything; decode only until the first picture, which alone carries rotation and true pixel format.

    Gives the tracks by stream index, the picture's first, and the error that ended the reading early, if one did.
    """
    broken: list[Exception] = []
    streams = [stream for stream in (video, audio) if stream is not None]
    tracks = {stream.index: _Track() for stream in streams}
    if video is not None:
        video.codec_context.thread_count = 1
        video.codec_context.options = {"max_pixels": str(limits.max_pixels)}
    place = 0
    for packet in read_packets(container, *streams, failed=broken.append):
        if packet.size == 0:
            continue
        track = tracks[packet.stream_index]
        track.add(packet, place)
        place += 1
        if len(track.pts) > limits.max_frames:
            raise MediaError("too_many_frames", f"Split it below {limits.max_frames} frames.", path.name)
        if video is not None and packet.stream_index == video.index and track.picture is None:
            track.picture = _first_picture(video, packet, len(track.pts))
        if audio is not None and packet.stream_index == audio.index and not audio.codec_context.sample_rate:
            _learn_format(audio, packet)
    return tracks, broken


def _learn_format(stream: AudioStream, packet: "Packet[Stream]") -> None:
    """Decode a packet of sound whose format no header told, as where it begins late in the file."""
    try:
        stream.decode(packet)
    except av.error.FFmpegError:
        return  # the next packet may tell; decoding counts the damage


def _first_picture(stream: VideoStream, packet: "Packet[Stream]", position: int) -> VideoFrame | None:
    if position > _FIRST_PICTURE_PACKETS:
        return None
    try:
        return next(iter(stream.decode(packet)), None)
    except av.error.InvalidDataError:
        return None  # a broken picture; the next key frame may be whole, and decoding counts the damage


def _video_info(stream: VideoStream, track: _Track, zero: float) -> VideoInfo | None:
    if not track.pts or stream.time_base is None:
        return None
    base, picture, context = stream.time_base, track.picture, stream.codec_context
    shown = np.array([pts for pts, hidden in zip(track.pts, track.hidden, strict=True) if not hidden] or track.pts)
    shown.sort()
    rate = frame_rate(shown, base, stream.average_rate)
    last = float(max(track.ends)) if max(track.ends) > shown[-1] else float(shown[-1] + 1 / (rate.steady * base))
    turn = orientation_of(_display_matrix(picture))
    width, height = turn.size(*((picture.width, picture.height) if picture else (context.width, context.height)))
    color = picture or context
    transfer = _name(ColorTrc, color.color_trc)
    aspect = stream.sample_aspect_ratio
    if not aspect or not Fraction(1, 16) <= aspect <= 16:
        aspect = Fraction(1)
    if turn.swaps_sides:
        aspect = 1 / aspect
    pixel_format = picture.format.name if picture else context.pix_fmt or "unknown"
    times = ((pts, key) for pts, key, hidden in zip(track.pts, track.keys, track.hidden, strict=True) if not hidden)
    return VideoInfo(
        codec=context.codec.canonical_name,
        width=width,
        height=height,
        rotation=turn.rotation,
        mirrored=turn.mirrored,
        pixel_aspect=f"{aspect.numerator}/{aspect.denominator}",
        fps=f"{rate.mean.numerator}/{rate.mean.denominator}",
        fps_float=float(rate.mean),
        vfr=rate.varies,
        pixel_format=pixel_format,
        bit_depth=picture.format.components[0].bits if picture else 8,
        color_range="full" if pixel_format.startswith("yuvj") else _range_name(color.color_range),
        transfer=transfer,
        primaries=_name(ColorPrimaries, color.color_primaries),
        hdr=transfer in _HDR_TRANSFERS,
        interlaced=bool(picture and picture.interlaced_frame),
        header_frames=stream.frames or None,
        packets=len(track.pts),
        shown_packets=len(shown),
        duration_s=float((last - shown[0]) * base),
        start_s=float(shown[0] * base) - zero,
        keyframe_times_s=tuple(sorted(float(pts * base) - zero for pts, key in times if key)),
        stream=stream.index,
        steady_fps=f"{rate.steady.numerator}/{rate.steady.denominator}",
        alpha=(picture is not None and has_alpha(picture)) or alpha_decoder(stream) is not None,
        clock_shifts=track.shifts,
    )


def _audio_info(stream: AudioStream, track: _Track, zero: float) -> AudioInfo | None:
    context = stream.codec_context
    if (
        not track.pts
        or stream.time_base is None
        or context is None
        or not context.sample_rate
        or not context.layout.nb_channels
    ):
        return None
    start = max(float(min(track.pts) * stream.time_base) - zero, 0.0)
    end = float(max(track.ends) * stream.time_base) - zero
    if stream.duration and not track.shifts:  # the header knows how much of the last packet is padding
        end = min(end, float(((stream.start_time or 0) + stream.duration) * stream.time_base) - zero)
    return AudioInfo(
        codec=context.codec.canonical_name,
        sample_rate=context.sample_rate,
        channels=context.layout.nb_channels,
        duration_s=max(end - start, 0.0),
        start_s=start,
        stream=stream.index,
        tracks=len(stream.container.streams.audio),
        dispositions=tuple(d.name for d in Disposition if d.name and stream.disposition & d),
        clock_shifts=track.shifts,
    )


def _is_truncated(path: Path, kind: str, container: InputContainer, video: VideoInfo | None, duration_s: float) -> bool:
    if kind == "mp4" and mp4_is_truncated(path):
        return True
    if video and video.header_frames and video.packets < video.header_frames:
        return True
    if kind not in _STATED_DURATION or not container.duration:
        return False
    stated_s = container.duration / 1_000_000
    return duration_s < stated_s - max(1.0, 0.05 * stated_s)


def _display_matrix(picture: VideoFrame | None) -> np.ndarray | None:
    if picture is None:
        return None
    side_data = cast(SideDataContainer, picture.side_data)  # PyAV's stubs promise a dict
    found = side_data.get(SideDataType.DISPLAYMATRIX)
    return None if found is None else np.frombuffer(memoryview(found), dtype=np.int32)


def _name(codes: type[ColorTrc] | type[ColorPrimaries], value: int) -> str:
    return codes(value).name.lower() if value in set(codes) else f"reserved_{value}"


def _range_name(value: int) -> str:
    return {ColorRange.MPEG: "limited", ColorRange.JPEG: "full"}.get(ColorRange(value), "unspecified")
