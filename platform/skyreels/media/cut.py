"""Clips in one normal form: constant-rate H.264 pictures and sample-exact FLAC sound, the same bytes on a rerun."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, repeat
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame

from skyreels.media.conform import Conformer, Crop
from skyreels.media.decode import iter_video_frames
from skyreels.media.encode import write_flac, write_video
from skyreels.media.errors import MediaError
from skyreels.media.facts import CutReport, Probe, SoundReport, VideoInfo
from skyreels.media.limits import DEFAULT_LIMITS, MediaLimits
from skyreels.media.picture import DecodedFrame
from skyreels.media.report import DecodeReport
from skyreels.media.sound import full_scale_gain, iter_audio

_ROUNDING_S = 1e-6


def cut_clip(
    path: str | Path,
    probe: Probe,
    *,
    start_s: float,
    end_s: float,
    fps: Fraction | int | float,
    size: tuple[int, int] | None = None,
    crop: Crop | None = None,
    video_path: str | Path,
    audio_path: str | Path | None,
    sample_rate: int = 44100,
    crf: int = 18,
    preset: str = "veryfast",
    limits: MediaLimits = DEFAULT_LIMITS,
) -> CutReport:
    """Cut [start_s, end_s) into `video_path` (H.264 MP4, no sound) and `audio_path` (FLAC, where there is a track).

    Pictures are upright, square-pixel, 8-bit limited-range BT.709 at exactly `fps`, round((end - start) * fps) of
    them; picture k shows the source at start_s + k / fps (see `Grid`). `crop` (x, y, width, height) is in source
    pixels of the upright picture; `size` (width, height, even) defaults to the cropped one in square pixels. Sound is
    mono or stereo with round((end - start) * sample_rate) samples, silence where the track has none.
    """
    if probe.video is None:
        raise MediaError("no_video_stream", "Cut it with cut_audio.", Path(path).name)
    rate = Fraction(fps).limit_denominator(1001)
    count = round(Fraction(end_s - start_s) * rate)
    if count < 1:
        raise MediaError("zero_length_span", "Ask for at least one frame.", f"{start_s} to {end_s} s at {rate} fps")
    decoded = DecodeReport()
    frames = iter_video_frames(path, probe, limits=limits, start_s=start_s, end_s=end_s, lead_in=True, report=decoded)
    grid = Grid(start_s, rate, count)
    width, height = size or _default_size(probe.video, crop)
    conform = Conformer(probe.video.orientation, (width, height), crop)
    pictures = _conformed(grid.pick(frames), conform)
    first = next(pictures, None)
    if first is None:
        raise MediaError(
            "no_frames", "Ask for a span with pictures in it.", f"{Path(path).name} {start_s} to {end_s} s"
        )
    write_video(video_path, chain([first], pictures), rate, crf=crf, preset=preset)
    sound = None
    if probe.audio is not None and audio_path is not None:
        sound = cut_audio(
            path, probe, start_s=start_s, end_s=end_s, audio_path=audio_path, sample_rate=sample_rate, limits=limits
        )
    return CutReport(
        frames=count,
        fps=f"{rate.numerator}/{rate.denominator}",
        width=width,
        height=height,
        repeated_frames=grid.repeated,
        nominal_frames=decoded.nominal_frames,
        decoded_frames=decoded.decoded_frames,
        decode_errors=decoded.errors + decoded.corrupt_frames,
        sound=sound,
    )


def cut_audio(
    path: str | Path,
    probe: Probe,
    *,
    start_s: float,
    end_s: float,
    audio_path: str | Path,
    sample_rate: int = 44100,
    limits: MediaLimits = DEFAULT_LIMITS,
) -> SoundReport:
    """Cut the sound of [start_s, end_s) into a mono or stereo FLAC of round((end - start) * sample_rate) samples.

    What folding to stereo raises above full scale, or what is above it in a file of floats, is turned down as a whole;
    in others it was cut off before, or is the ringing of a codec at full scale.
    """
    if probe.audio is None:
        raise MediaError("no_audio_stream", "Send a file with a sound track.", Path(path).name)
    wanted = round((end_s - start_s) * sample_rate)
    if wanted < 1:
        raise MediaError("zero_length_span", "Ask for a span longer than one sample.", f"{start_s} to {end_s} s")
    decoded = DecodeReport()
    blocks = iter_audio(
        path, probe, start_s=start_s, end_s=end_s, sample_rate=sample_rate, stereo=True, limits=limits, report=decoded
    )
    samples = np.zeros((min(probe.audio.channels, 2), wanted), np.float32)
    position = 0
    for block in blocks:
        if position == 0 and block.samples.shape[0] != samples.shape[0]:  # a header may be wrong about its channels
            samples = np.zeros((block.samples.shape[0], wanted), np.float32)
        taken = block.samples[:, : wanted - position]
        samples[:, position : position + taken.shape[1]] = taken
        position += taken.shape[1]
    unbounded = probe.audio.channels > 2 or probe.audio.codec.startswith("pcm_f")
    gain = full_scale_gain(samples) if unbounded else 1.0
    write_flac(audio_path, samples if gain == 1.0 else samples * np.float32(gain), sample_rate)
    return SoundReport(
        samples=wanted,
        sample_rate=sample_rate,
        channels=samples.shape[0],
        padded_samples=wanted - position,
        decode_errors=decoded.errors,
        gain=gain,
    )


@dataclass
class Grid:
    """`count` instants start_s + k / fps, and which picture each of them gets."""

    start_s: float
    fps: Fraction
    count: int
    repeated: int = 0

    def pick(self, frames: Iterable[DecodedFrame]) -> Iterator[DecodedFrame]:
        """The picture for each instant: the nearest in time, but none more than half a step before it is due.

        So a change of picture falls on the instant nearest to it, and a picture that stays on screen for seconds
        is not cut short by half of them in favour of the next, as plain nearest-in-time would do.
        """
        step_s = float(1 / self.fps)
        shown: DecodedFrame | None = None
        k = 0
        for frame in frames:
            run = 0
            if shown is not None:
                change_s = frame.time_s - min(frame.time_s - shown.time_s, step_s) / 2
                while k < self.count and self.start_s + k * step_s < change_s - _ROUNDING_S:
                    yield shown
                    k, run = k + 1, run + 1
            self.repeated += max(0, run - 1)
            shown = frame
        if shown is not None:
            self.repeated += max(0, self.count - k - 1)
            yield from repeat(shown, self.count - k)


def _conformed(frames: Iterable[DecodedFrame], conform: Conformer) -> Iterator[VideoFrame]:
    """Each picture conformed once, however often it is shown."""
    last: DecodedFrame | None = None
    picture: VideoFrame | None = None
    for frame in frames:
        if picture is None or frame is not last:
            last, picture = frame, conform(frame.source)
        yield picture


def _default_size(info: VideoInfo, crop: Crop | None) -> tuple[int, int]:
    """The cropped picture in square pixels, rounded down to even sides."""
    width, height = (info.width, info.height) if crop is None else crop[2:]
    square_width = width * info.display_size[0] / info.width
    return max(2, int(square_width) // 2 * 2), max(2, height // 2 * 2)
