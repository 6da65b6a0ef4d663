"""Pictures of a video in order, decoded once and handed on unconverted."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av.error
import numpy as np
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from skyreels.media.animation import animation_frames
from skyreels.media.clock import on_one_clock
from skyreels.media.container import check_pixels, open_container, read_packets
from skyreels.media.errors import MediaError
from skyreels.media.facts import Probe, VideoInfo
from skyreels.media.limits import DEFAULT_LIMITS, MediaLimits
from skyreels.media.picture import DecodedFrame, Scalers
from skyreels.media.plain import Deinterlacer, OverBlack, alpha_decoder
from skyreels.media.report import DecodeReport
from skyreels.media.sniff import IMAGES

__all__ = ["DecodeReport", "DecodedFrame", "iter_video_frames"]

# How far before the wanted time to try again when a seek lands after it, as it does in transport streams.
_SEEK_BACK_S = (0.0, 1.0, 5.0, 30.0, math.inf)
_TICK_S = 1e-6
_STRICT = {"err_detect": "+crccheck+bitstream+buffer+explode"}


def iter_video_frames(
    path: str | Path,
    probe: Probe,
    *,
    limits: MediaLimits = DEFAULT_LIMITS,
    start_s: float | None = None,
    end_s: float | None = None,
    keyframes_only: bool = False,
    lead_in: bool = False,
    strict: bool = True,
    threads: int = 1,
    report: DecodeReport | None = None,
) -> Iterator[DecodedFrame]:
    """Pictures with start_s <= time < end_s in display order; times are seconds after `probe.clock_zero_s`.

    `lead_in` also gives the picture that is on screen at `start_s`, if it began earlier. `strict` makes the decoder
    check what it can and drop pictures it would otherwise patch over, so that `report` shows bit-rot. What can be
    decoded of a damaged file is yielded; `MediaError` is raised where nothing can (`no_video_stream`, `no_frames`)
    or a limit is passed (`too_many_pixels`, `too_many_frames`, `too_long`).
    """
    path = Path(path)
    if probe.video is None:
        raise MediaError("no_video_stream", "Send a file with a picture, or use it as sound.", path.name)
    report = report if report is not None else DecodeReport()
    start = -math.inf if start_s is None else start_s - _TICK_S
    end = (math.inf if end_s is None else end_s) - _TICK_S
    wanted = _Wanted(start, end, lead_in, path, limits, report)
    if probe.container in IMAGES:
        yield from wanted.of(animation_frames(path, probe.video, limits, start, end, report))
    else:
        with open_container(path, limits) as container:
            stream = _stream(container, probe.video)
            coder = _coder(stream, limits, keyframes_only, strict, threads)
            clock_zero_s = probe.clock_zero_s
            decoder = _Decoder(
                container, stream, coder, probe.video, clock_zero_s, path, limits, keyframes_only, report
            )
            yield from wanted.of(decoder.from_key_frame(start, end))
    if start_s is None and end_s is None and not keyframes_only:
        report.nominal_frames += max(0, (probe.video.header_frames or 0) - probe.video.packets)
    if report.decoded_frames == 0 and report.nominal_frames > 0:
        raise MediaError("no_frames", "Fetch the file again: no picture in it can be decoded.", report.first_error)


def shown_times(path: str | Path, probe: Probe, limits: MediaLimits = DEFAULT_LIMITS) -> np.ndarray:
    """(N,) when the pictures of a whole video are due, in order, seconds as above; no packet is decoded."""
    path = Path(path)
    if probe.video is None:
        raise MediaError("no_video_stream", "Send a file with a picture, or use it as sound.", path.name)
    with open_container(path, limits) as container:
        stream, report = _stream(container, probe.video), DecodeReport()
        decoder = _Decoder(
            container, stream, stream.codec_context, probe.video, probe.clock_zero_s, path, limits, False, report
        )
        return np.array(sorted(decoder.due()))


@dataclass
class _Wanted:
    """The pictures of a span, and with `lead_in` the one on screen when it begins, counted."""

    start: float
    end: float
    lead_in: bool
    path: Path
    limits: MediaLimits
    report: DecodeReport

    def of(self, frames: Iterable[DecodedFrame]) -> Iterator[DecodedFrame]:
        on_screen: DecodedFrame | None = None
        for frame in frames:
            if frame.time_s >= self.end:
                break
            if frame.time_s < self.start:
                on_screen = frame
                continue
            if on_screen and self.lead_in and frame.time_s > self.start + 2 * _TICK_S:
                yield self._counted(on_screen)
            on_screen = None
            yield self._counted(frame)
        if on_screen and self.lead_in:
            yield self._counted(on_screen)

    def _counted(self, frame: DecodedFrame) -> DecodedFrame:
        self.report.decoded_frames += 1
        self.report.corrupt_frames += frame.corrupt
        if self.report.decoded_frames > self.limits.max_frames:
            raise MediaError("too_many_frames", f"Split it below {self.limits.max_frames} frames.", self.path.name)
        if frame.time_s > self.limits.max_duration_s:
            raise MediaError("too_long", f"Split it below {self.limits.max_duration_s:g} s.", self.path.name)
        return frame


@dataclass
class _Decoder:
    """One open video stream, read forwards from the start or from one seek."""

    container: InputContainer
    stream: VideoStream
    coder: VideoCodecContext
    info: VideoInfo
    clock_zero_s: float
    path: Path
    limits: MediaLimits
    keyframes_only: bool
    report: DecodeReport

    def from_key_frame(self, start: float, end: float) -> Iterator[DecodedFrame]:
        """Pictures from a key frame at or before `start` on."""
        if start <= self.info.start_s or self.info.clock_shifts:  # stamps that restart lead a seek astray
            yield from self._pictures(start, end)
            return
        for back_s in _SEEK_BACK_S:
            before_s = max(start + self.clock_zero_s - back_s, 0.0)
            self.container.seek(math.floor(before_s / self._time_base), stream=self.stream, backward=True)
            self.report.restart()
            pictures = self._pictures(start, end)
            first = next(pictures, None)
            if first is not None and (first.time_s <= start or math.isinf(back_s)):
                yield first
                yield from pictures
                return

    def due(self) -> Iterator[float]:
        """Times of the pictures that packets promise, in the order of the file."""
        packets = read_packets(self.container, self.stream, failed=self.report.failed)
        for packet in on_one_clock(packets, self.info.clock_shifts, self.stream.time_base):
            if packet.size and not packet.is_discard:
                yield self._seconds(packet.pts, packet.dts)

    def _pictures(self, start: float, end: float) -> Iterator[DecodedFrame]:
        """Everything the decoder gives from here on, at times that never go back."""
        scalers, over_black = Scalers(), OverBlack()
        step_s = float(1 / self.info.steady_rate)
        last = self.info.start_s - step_s
        for decoded in self._whole(start, end):
            picture = over_black(decoded)
            known = picture.pts is not None
            last = max(last, self._seconds(picture.pts)) if known else last + step_s
            yield DecodedFrame(
                last,
                picture.key_frame,
                picture.is_corrupt,
                self.info.orientation,
                self.info.display_size,
                picture,
                scalers,
            )

    def _whole(self, start: float, end: float) -> Iterator[VideoFrame]:
        """Pictures within the limits, without fields."""
        deinterlaced = Deinterlacer()
        for picture in self._decoded(start, end):
            check_pixels(picture.width, picture.height, self.limits, self.path)
            yield from deinterlaced(picture)
        yield from deinterlaced.rest()

    def _decoded(self, start: float, end: float) -> Iterator[VideoFrame]:
        """Decode packet by packet; one that fails is counted and the next one tried."""
        packets = read_packets(self.container, self.stream, failed=self.report.failed)
        first_s = self._first_key_s(start)
        for packet in on_one_clock(packets, self.info.clock_shifts, self.stream.time_base):
            if packet.size:
                if self.keyframes_only and not packet.is_keyframe:
                    continue
                if first_s is not None and self._seconds(packet.pts, packet.dts) < first_s:
                    continue
                first_s = None
                time_s = self._seconds(packet.pts, packet.dts)
                self.report.nominal_frames += start <= time_s < end and not packet.is_discard
            try:
                pictures = self.coder.decode(packet)
            except av.error.FFmpegError as error:
                self.report.failed(error)
                continue
            yield from pictures

    def _first_key_s(self, start: float) -> float | None:
        """Where decoding may begin in a file that is read from its beginning: the last key frame but one before
        `start`, so that pictures which lean on the one before are whole. None: at once."""
        before = [time_s for time_s in self.info.keyframe_times_s if time_s <= start]
        return before[-2] - _TICK_S if self.info.clock_shifts and len(before) > 1 else None

    @property
    def _time_base(self) -> Fraction:
        return self.stream.time_base or Fraction(1, 1_000_000)

    def _seconds(self, *stamps: int | None) -> float:
        """The first known of `stamps` (in the stream's time base) on the clock of the probe."""
        stamp = next((stamp for stamp in stamps if stamp is not None), 0)
        return float(stamp * self._time_base) - self.clock_zero_s


def _stream(container: InputContainer, info: VideoInfo) -> VideoStream:
    stream = next((s for s in container.streams.video if s.index == info.stream), None)
    if stream is None or stream.codec_context is None:
        raise MediaError("no_video_stream", "Send a file with a picture, or use it as sound.", container.name)
    return stream


def _coder(
    stream: VideoStream, limits: MediaLimits, keyframes_only: bool, strict: bool, threads: int
) -> VideoCodecContext:
    coder = alpha_decoder(stream) or stream.codec_context
    coder.thread_count = threads
    coder.options = {"max_pixels": str(limits.max_pixels)} | (_STRICT if strict else {})
    if keyframes_only:
        # Not also stream.discard: with it FFmpeg's mp4 demuxer hands out wrong presentation times.
        coder.skip_frame = "NONKEY"
    return coder
