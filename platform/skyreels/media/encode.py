"""Frames and samples to files, byte-identical on a rerun: H.264 + AAC or AV1 + Opus in MP4, FLAC and WAV.

One encoder thread and no creation time make the bytes a function of the input and of the FFmpeg build alone.
The caller owns atomicity: it passes a temporary path and renames.
"""

import ctypes
import math
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Literal

import av
import numpy as np
import soundfile
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream

BT709 = 1  # the code point of BT.709 primaries, transfer and matrix in H.273
VideoCodec = Literal["h264", "av1"]
_CRF = {"h264": 18, "av1": 24}
_SOUND = {"h264": "aac", "av1": "libopus"}
_OPUS_RATE = 48_000  # encoded at another one it has, the muxer counts the priming in the wrong unit: 4 ms at 16 kHz
_CAP_SYS_NICE, _CAPABILITIES_V3 = 23, 0x20080522  # of Linux's capability.h


def write_video(
    path: str | Path,
    frames: Iterable[np.ndarray | VideoFrame],
    fps: Fraction | int | float,
    *,
    audio: np.ndarray | None = None,
    sample_rate: int = 44100,
    codec: VideoCodec = "h264",
    crf: int | None = None,
    preset: str | None = None,
    gop: int | None = None,
    audio_codec: str | None = None,
    audio_bit_rate: int = 96_000,
    comment: str = "",
) -> int:
    """Write an MP4 (yuv420p, BT.709), with sound where `audio` is given; returns the number of frames.

    `frames` yields (H, W, 3) uint8 RGB, or pictures that are limited-range BT.709 yuv420p already, all of one even
    size; they are encoded as they come, never gathered.
    `audio` is (C, N) float32 in [-1, 1], sample 0 at the time of frame 0. The encoder's priming samples are
    trimmed by the container's edit list, so a decoder that honours it gets sample n back at n / sample_rate.
    `codec` is that of the picture, with `crf` and `preset` in its encoder's terms. Sound is AAC beside H.264, and
    beside AV1 Opus at 48 kHz.
    `gop` is the largest distance between keyframes in frames (default: two seconds); `audio_bit_rate` is bits per
    second and channel. `comment` goes into the container's metadata.
    """
    rate = Fraction(fps).limit_denominator(1001)
    if rate <= 0:
        raise ValueError(f"write_video({path}): fps must be positive, got {fps}")
    audio_codec = audio_codec or _SOUND[codec]
    if audio is not None:
        audio, sample_rate = _for_encoder(_checked_audio(audio, path), sample_rate, audio_codec)
    numbered = enumerate(frames)
    first = next(numbered, None)
    if first is None:
        raise ValueError(f"write_video({path}): no frames; pass at least one (H, W, 3) uint8 array")
    size = _checked_size(first[1], path)
    mp4_options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with av.open(str(path), "w", format="mp4", options=mp4_options) as container:
        if comment:
            container.metadata["comment"] = comment
        video = _video_stream(container, rate, size, codec, _options(codec, crf, preset), gop or round(2 * rate) or 1)
        sound = None
        if audio is not None:
            sound = _audio_stream(container, audio_codec, sample_rate, audio.shape[0], audio_bit_rate)
        # Sound goes in as the picture advances: the muxer interleaves packets without holding a stream back.
        blocks = iter(()) if sound is None or audio is None else _audio_blocks(audio, sample_rate, sound)
        reformatter = VideoReformatter()  # one for all: setting a conversion up takes longer than a small frame
        count, heard = 0, 0.0
        for index, array in (item for group in ((first,), numbered) for item in group):
            container.mux(video.encode(_video_frame(reformatter, array, index, rate, size, path)))
            count = index + 1
            while sound is not None and heard <= count / rate and (block := next(blocks, None)) is not None:
                container.mux(sound.encode(block))
                heard += block.samples / sample_rate
        _finish(container, video, sound, blocks)
    return count


def _finish(
    container: OutputContainer, video: VideoStream, sound: AudioStream | None, blocks: Iterator[AudioFrame]
) -> None:
    """The sound that is left, and what the encoders hold back."""
    for block in blocks:
        container.mux(sound.encode(block))  # type: ignore[union-attr]  # blocks is empty without sound
    for stream in (video, sound):
        if stream is not None:
            container.mux(stream.encode(None))


def write_flac(path: str | Path, audio: np.ndarray, sample_rate: int) -> None:
    """Write (C, N) float32 in [-1, 1] as 16-bit FLAC: as many samples as given, each within one step."""
    _write_pcm(path, audio, sample_rate, "FLAC")


def write_wav(path: str | Path, audio: np.ndarray, sample_rate: int) -> None:
    """As `write_flac`, uncompressed."""
    _write_pcm(path, audio, sample_rate, "WAV")


def _write_pcm(path: str | Path, audio: np.ndarray, sample_rate: int, container: str) -> None:
    audio = _checked_audio(audio, path)
    # Readers divide by 32768: the same scale here makes reading and writing again change nothing.
    pcm = np.clip(np.rint(audio * 32768.0), -32768, 32767).astype(np.int16)
    soundfile.write(str(path), pcm.T, sample_rate, format=container, subtype="PCM_16")


def _options(codec: VideoCodec, crf: int | None, preset: str | None) -> dict[str, str]:
    quality = {"crf": str(_CRF[codec] if crf is None else crf), "flags": "+bitexact"}
    if codec == "av1":
        return {**quality, "preset": preset or "8", "svtav1-params": "lp=1"}
    options = {**quality, "preset": preset or "veryfast", "threads": "1"}
    if _has_avx512():
        # Measured: with AVX-512, x264's macroblock-tree rate control gives another file on every run unless the
        # width is a multiple of 256. The AVX2 code does not, is as fast, and is what other machines run anyway.
        options["x264-params"] = "asm=AVX2"
    return options


def _video_stream(
    container: OutputContainer,
    rate: Fraction,
    size: tuple[int, int],
    codec: VideoCodec,
    options: dict[str, str],
    gop: int,
) -> VideoStream:
    encoder: Literal["libx264", "libsvtav1"] = "libx264" if codec == "h264" else "libsvtav1"
    stream = container.add_stream(encoder, rate=rate, options=options)
    stream.height, stream.width = size
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.time_base = 1 / rate
    context.thread_count = 1
    context.gop_size = gop
    context.color_primaries = context.color_trc = context.colorspace = BT709
    context.color_range = ColorRange.MPEG
    if codec == "av1":
        os.environ.setdefault("SVT_LOG", "1")  # errors: else every file tells of its settings on stderr
        with ThreadPoolExecutor(1) as opener:
            opener.submit(_open_unprivileged, context).result()
    return stream


def _open_unprivileged(context: VideoCodecContext) -> None:
    """Open an encoder from a thread that can change nobody's scheduling, which this one cannot do ever after.

    SVT-AV1, opened by root, puts its threads and the one that opens it under SCHED_FIFO at 99: all else starves. On
    Linux capabilities are a thread's own, and what it starts inherits them.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_V3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable of the lower 32, then of the upper
    if libc.capget(header, sets) == 0:
        sets[0] &= ~(1 << _CAP_SYS_NICE)
        sets[1] &= ~(1 << _CAP_SYS_NICE)
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "CAP_SYS_NICE could not be given up, without which AV1 is not safe to encode")
    context.open()


@cache
def _has_avx512() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and "avx512" in cpuinfo.read_text(errors="replace")


def _audio_stream(
    container: OutputContainer, codec: str, sample_rate: int, channels: int, bit_rate: int
) -> AudioStream:
    layout = {1: "mono", 2: "stereo"}.get(channels)
    if layout is None:
        raise ValueError(f"audio has {channels} channels; write_video takes mono (1, N) or stereo (2, N)")
    # A fixed rate per channel keeps the band up to 16 kHz and more, which the encoder's default does not.
    options = {"b": str(bit_rate * channels), "flags": "+bitexact"}
    if codec == "aac":
        options["aac_coder"] = "fast"  # at these rates a third of the time and 5 dB nearer than the default search
    stream = container.add_stream(codec, rate=sample_rate, layout=layout, options=options)
    if not isinstance(stream, AudioStream):
        raise ValueError(f"{codec!r} is not an audio codec; use 'aac'")
    stream.codec_context.time_base = Fraction(1, sample_rate)
    return stream


def _video_frame(
    reformatter: VideoReformatter,
    picture: np.ndarray | VideoFrame,
    index: int,
    rate: Fraction,
    size: tuple[int, int],
    path: str | Path,
) -> VideoFrame:
    frame = _converted(reformatter, picture, index, size, path)
    frame.pict_type = PictureType.NONE  # a decoded picture would bring its own type, and x264 would obey it
    frame.pts = index
    frame.time_base = 1 / rate
    return frame


def _converted(
    reformatter: VideoReformatter, array: np.ndarray | VideoFrame, index: int, size: tuple[int, int], path: str | Path
) -> VideoFrame:
    if isinstance(array, VideoFrame):
        if (array.height, array.width) != size or array.format.name != "yuv420p":
            raise ValueError(f"write_video({path}): frame {index} is {array}, the first was yuv420p {size}")
        return array
    if array.dtype != np.uint8 or array.shape != (*size, 3):
        raise ValueError(
            f"write_video({path}): frame {index} is {array.dtype} {array.shape}, the first was uint8 {(*size, 3)}"
        )
    return reformatter.reformat(
        VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24"),
        format="yuv420p",
        interpolation=Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT,
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        threads=1,
    )


def _for_encoder(audio: np.ndarray, sample_rate: int, codec: str) -> tuple[np.ndarray, int]:
    """The sound at a rate that the codec is given, and that rate."""
    if codec != "libopus" or sample_rate == _OPUS_RATE:
        return audio, sample_rate
    from scipy.signal import resample_poly  # takes a second that who writes H.264 need not spend

    common = math.gcd(_OPUS_RATE, sample_rate)
    brought = resample_poly(audio, _OPUS_RATE // common, sample_rate // common, axis=1)
    clipped: np.ndarray = np.clip(brought, -1.0, 1.0).astype(np.float32)
    return clipped, _OPUS_RATE


def _audio_blocks(audio: np.ndarray, sample_rate: int, stream: AudioStream) -> Iterator[AudioFrame]:
    step = stream.codec_context.frame_size or 1024
    for start in range(0, audio.shape[1], step):
        block = np.ascontiguousarray(audio[:, start : start + step])
        frame = AudioFrame.from_ndarray(block, format="fltp", layout=stream.codec_context.layout.name)
        frame.sample_rate = sample_rate
        frame.time_base = Fraction(1, sample_rate)
        frame.pts = start
        yield frame


def _checked_audio(audio: np.ndarray, path: str | Path) -> np.ndarray:
    if audio.ndim != 2 or audio.shape[1] == 0 or not np.issubdtype(audio.dtype, np.floating):
        raise ValueError(f"{path}: audio must be float (channels, samples), got {audio.dtype} {audio.shape}")
    if not np.isfinite(audio).all():
        raise ValueError(f"{path}: audio holds NaN or infinity")
    clipped: np.ndarray = np.clip(audio, -1.0, 1.0).astype(np.float32, copy=False)
    return clipped


def _checked_size(frame: np.ndarray | VideoFrame, path: str | Path) -> tuple[int, int]:
    if isinstance(frame, VideoFrame):
        height, width = frame.height, frame.width
    elif frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"write_video({path}): frames must be (H, W, 3) RGB, got {frame.shape}")
    else:
        height, width = frame.shape[:2]
    if height % 2 or width % 2:
        raise ValueError(f"write_video({path}): yuv420p needs even sides, got {width}x{height}; crop or pad by one")
    return height, width
