"""Sound as samples at exact times."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer

from skyreels.media.clock import on_one_clock
from skyreels.media.container import clock_zero_s, open_container, read_packets, sound_streams
from skyreels.media.errors import MediaError
from skyreels.media.facts import ClockShift, Probe
from skyreels.media.limits import DEFAULT_LIMITS, MediaLimits
from skyreels.media.report import DecodeReport
from skyreels.media.sniff import sniff

# Streams without an index or timestamps of their own: a seek in them is a guess, so they are read from the start.
_NO_EXACT_SEEK = frozenset({"mp3", "aac"})
# Codecs need earlier packets to settle (Opus asks for 80 ms); what they give before `start_s` is cut off.
_PREROLL_S = 0.5
# Timestamps may be rounded (Matroska: 1 ms); a larger jump is a real gap or overlap.
_JUMP_S = 0.04
_FULL_SCALE = 32767 / 32768
_SILENCE_BLOCK = 1 << 16
# A track that stays below this (-80 dB, above what dither adds) for so long is taken for silent.
_SILENT = 1e-4
_SILENT_S = 600.0
_MAX_CHANNELS = 8
_SAMPLE_KINDS: dict[str, np.dtype[Any]] = {
    name: np.dtype(kind)
    for name, kind in (("u8", "u1"), ("s16", "i2"), ("s32", "i4"), ("s64", "i8"), ("flt", "f4"), ("dbl", "f8"))
}
# Channel counts in FFmpeg's default order; decoded arrays carry no layout.
_LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}


@dataclass(frozen=True)
class AudioClip:
    """`samples` (C, N) float32, nominally in [-1, 1]; sample n sounds at start_s + n / sample_rate."""

    samples: np.ndarray
    sample_rate: int
    start_s: float

    @property
    def duration_s(self) -> float:
        return float(self.samples.shape[1] / self.sample_rate)


def first_heard(path: str | Path, limits: MediaLimits = DEFAULT_LIMITS) -> int | None:
    """Index of the audio stream to hear: the likeliest that is not silent, or where all are, the likeliest."""
    path = Path(path)
    with open_container(path, limits) as container:
        streams = [stream.index for stream in sound_streams(container)]
    if len(streams) < 2:
        return streams[0] if streams else None
    return next((index for index in streams if _sounds(path, index, limits)), streams[0])


def full_scale_gain(samples: np.ndarray) -> float:
    """What brings the peak of `samples` down to full scale; 1 where it is not above."""
    peak = float(np.abs(samples).max(initial=0.0))
    return min(1.0, _FULL_SCALE / peak) if peak > 0 else 1.0


def decode_audio(
    path: str | Path,
    probe: Probe | None = None,
    *,
    start_s: float = 0.0,
    end_s: float | None = None,
    sample_rate: int | None = None,
    mono: bool = False,
    limits: MediaLimits = DEFAULT_LIMITS,
) -> AudioClip:
    """The sound from `start_s` to `end_s` (or the end of the track) as one array; see `iter_audio`."""
    blocks = list(
        iter_audio(path, probe, start_s=start_s, end_s=end_s, sample_rate=sample_rate, mono=mono, limits=limits)
    )
    if not blocks:
        raise MediaError("no_samples", "Check the span against the track's duration.", f"{Path(path).name} {start_s} s")
    samples = np.concatenate([block.samples for block in blocks], axis=1)
    return AudioClip(samples, blocks[0].sample_rate, blocks[0].start_s)


def iter_audio(
    path: str | Path,
    probe: Probe | None = None,
    *,
    start_s: float = 0.0,
    end_s: float | None = None,
    sample_rate: int | None = None,
    mono: bool = False,
    stereo: bool = False,
    limits: MediaLimits = DEFAULT_LIMITS,
    report: DecodeReport | None = None,
) -> Iterator[AudioClip]:
    """The sound from `start_s` to `end_s` in blocks that follow on each other without gap, in flat memory.

    With the file's `probe` it is the track and the clock found there; a file of ours, which has one track and one
    clock, needs none. Times are those of the probe: codec priming and what an edit list hides are cut, gaps are
    silence, and silence leads up to a track that begins after `start_s`. The first sample is the one nearest to
    `start_s`; the last block ends at `end_s` or where the track ends. `mono` is the mean of the channels, `stereo`
    folds more than two into two, which may exceed full scale (see `full_scale_gain`).
    Raises `MediaError`: `no_audio_stream`, `too_long`, and what opening raises.
    """
    path = Path(path)
    report = report if report is not None else DecodeReport()
    with open_container(path, limits) as container:
        stream = _stream(container, probe)
        if stream is None:
            raise MediaError("no_audio_stream", "Send a file with a sound track.", path.name)
        zero_s = clock_zero_s(container)
        moves = probe.audio.clock_shifts if probe and probe.audio else ()
        seekable = sniff(path) not in _NO_EXACT_SEEK and not moves
        frames = _frames_from(container, stream, start_s, zero_s, report, seekable, moves)
        head = next(frames, None)
        if head is None:
            return
        rate = head.sample_rate
        first, last = round(start_s * rate), None if end_s is None else round(end_s * rate)
        blocks = _span(_placed(chain([head], frames), rate, zero_s, limits, path), first, last)
        if mono:
            blocks = (block.mean(axis=0, keepdims=True, dtype=np.float32) for block in blocks)
        out_rate = sample_rate or rate
        folded = stereo and not mono and head.layout.nb_channels > 2
        if out_rate != rate or folded:
            blocks = _resampled(blocks, rate, out_rate, "stereo" if folded else None)
        position = 0
        for block in blocks:
            yield AudioClip(block, out_rate, first / rate + position / out_rate)
            position += block.shape[1]


def _stream(container: InputContainer, probe: Probe | None) -> AudioStream | None:
    if probe is None:
        return next(iter(sound_streams(container)), None)
    return next((s for s in container.streams.audio if probe.audio and s.index == probe.audio.stream), None)


def _sounds(path: Path, index: int, limits: MediaLimits) -> bool:
    with open_container(path, limits) as container:
        stream = container.streams[index]
        assert isinstance(stream, AudioStream)
        seconds = 0.0
        for frame in _frames(container, stream, DecodeReport()):
            seconds += frame.samples / frame.sample_rate
            if np.abs(_float_samples(frame)).max(initial=0.0) > _SILENT:
                return True
            if seconds > _SILENT_S:
                break
    return False


def _frames_from(
    container: InputContainer,
    stream: AudioStream,
    start_s: float,
    zero_s: float,
    report: DecodeReport,
    seekable: bool,
    moves: Sequence[ClockShift],
) -> Iterator[AudioFrame]:
    """Decoded frames from before `start_s` on."""
    target_s = start_s - _PREROLL_S
    if seekable and target_s > 0 and stream.time_base is not None:
        container.seek(int((target_s + zero_s) / stream.time_base), stream=stream, backward=True)
        frames = _frames(container, stream, report)
        head = next(frames, None)
        if head is not None and head.time is not None and head.time - zero_s <= start_s:
            yield head
            yield from frames
            return
        container.seek(0, stream=stream, backward=True)
        report.restart()
    yield from _frames(container, stream, report, moves)


def _frames(
    container: InputContainer, stream: AudioStream, report: DecodeReport, moves: Sequence[ClockShift] = ()
) -> Iterator[AudioFrame]:
    for packet in on_one_clock(read_packets(container, stream, failed=report.failed), moves, stream.time_base):
        report.nominal_frames += packet.size > 0
        try:
            frames = stream.decode(packet)
        except av.error.FFmpegError as error:
            report.failed(error)
            continue
        report.decoded_frames += len(frames)
        yield from frames


def _placed(
    frames: Iterable[AudioFrame], rate: int, zero_s: float, limits: MediaLimits, path: Path
) -> Iterator[tuple[int, np.ndarray]]:
    """(index of its first sample after time zero, (C, N) float32) for blocks that never overlap."""
    end: int | None = None
    channels = 0
    for frame in frames:
        block = _float_samples(frame)
        channels = channels or block.shape[0]
        if frame.sample_rate != rate or block.shape[0] != channels:
            raise MediaError("format_changes", "Re-encode the sound at one rate and layout.", path.name)
        index = end if end is not None else 0
        if frame.time is not None:
            stamped = round((frame.time - zero_s) * rate)
            if end is None or abs(stamped - end) > _JUMP_S * rate:
                index = stamped
        if end is not None and index < end:  # an overlap: what came first stays
            block = block[:, end - index :]
            index = end
        end = index + block.shape[1]
        if end > limits.max_duration_s * rate:
            raise MediaError("too_long", f"Split it below {limits.max_duration_s:g} s.", path.name)
        yield index, block


def _span(placed: Iterable[tuple[int, np.ndarray]], first: int, last: int | None) -> Iterator[np.ndarray]:
    """The samples first <= n < last, with silence where there are none before the last block."""
    position = first
    for index, block in placed:
        if last is not None and index >= last:
            return
        if index + block.shape[1] <= position:
            continue
        while position < index:
            silent = min(index - position, _SILENCE_BLOCK)
            yield np.zeros((block.shape[0], silent), np.float32)
            position += silent
        wanted = block[:, position - index : None if last is None else last - index]
        yield wanted
        position += wanted.shape[1]


def _float_samples(frame: AudioFrame) -> np.ndarray:
    """(C, N) float32 of a decoded frame in any sample format.

    Not by PyAV's `to_ndarray`: from 8 channels on it reads past the frame's planes, into other memory.
    """
    channels = frame.layout.nb_channels
    if channels > _MAX_CHANNELS:
        raise MediaError("too_many_channels", f"Mix it down to {_MAX_CHANNELS} or fewer.", f"{channels} channels")
    kind = _SAMPLE_KINDS[frame.format.name.removesuffix("p")]
    if frame.format.is_planar:
        planes = frame.planes[:channels]
        samples = np.stack([np.frombuffer(memoryview(plane), kind, frame.samples) for plane in planes])
    else:
        interleaved = np.frombuffer(memoryview(frame.planes[0]), kind, frame.samples * channels)
        samples = interleaved.reshape(-1, channels).T
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128.0) / 128.0
    if samples.dtype.kind == "i":
        return (samples / 2.0 ** (8 * samples.dtype.itemsize - 1)).astype(np.float32)
    return samples.astype(np.float32)


def _resampled(blocks: Iterable[np.ndarray], rate: int, out_rate: int, layout: str | None) -> Iterator[np.ndarray]:
    """The same sound at `out_rate`; sample 0 keeps its time and n samples become round(n * out_rate / rate)."""
    resampler: AudioResampler | None = None
    taken = given = 0
    for block in blocks:
        source_layout = _LAYOUTS.get(block.shape[0], f"{block.shape[0]}c")
        resampler = resampler or AudioResampler(format="flt", layout=layout or source_layout, rate=out_rate)
        frame = AudioFrame.from_ndarray(block.T.reshape(1, -1), format="flt", layout=source_layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, taken, Fraction(1, rate)
        taken += block.shape[1]
        for out in resampler.resample(frame):
            given += out.samples
            yield _float_samples(out)
    if resampler is None:
        return
    owed = round(taken * out_rate / rate) - given
    tail = [_float_samples(out) for out in resampler.resample(None)]
    if tail and owed > 0:
        yield np.concatenate(tail, axis=1)[:, :owed]
