"""What a probe says about a file, as records that can be stored and sent."""

from fractions import Fraction

from pydantic import BaseModel, ConfigDict

from skyreels.media.orientation import Orientation


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClockShift(_Record):
    """From its `packet`-th packet on (0 is the first in the file), a stream's stamps are moved by `seconds`."""

    packet: int
    seconds: float


class VideoInfo(_Record):
    """A video stream. Times are seconds after `Probe.clock_zero_s`, on one clock that never restarts.

    `width` and `height` are after rotation, in stored pixels (see `display_size` for square ones); `rotation`
    (clockwise degrees) and then `mirrored` turn the stored picture upright. `fps` ("num/den") is the mean rate,
    `steady_fps` the one at which pictures change while they change: one that is held for long does not lower it.
    `header_frames` is what the index promises (None where the container has no such number), `packets` what the file
    really carries and `shown_packets` those of them that no edit list hides. `clock_shifts` bring stamps that restart
    or leap onto the one clock, in the order of the packets.
    """

    codec: str
    width: int
    height: int
    rotation: int
    mirrored: bool
    pixel_aspect: str
    fps: str
    fps_float: float
    vfr: bool
    pixel_format: str
    bit_depth: int
    color_range: str
    transfer: str
    primaries: str
    hdr: bool
    interlaced: bool
    header_frames: int | None
    packets: int
    shown_packets: int
    duration_s: float
    start_s: float
    keyframe_times_s: tuple[float, ...]
    stream: int = 0  # its index in the container
    steady_fps: str = ""  # "" in what was stored before it was measured
    alpha: bool = False  # transparency, which is laid over black
    clock_shifts: tuple[ClockShift, ...] = ()

    @property
    def keyframes(self) -> int:
        return len(self.keyframe_times_s)

    @property
    def steady_rate(self) -> Fraction:
        return Fraction(self.steady_fps or self.fps)

    @property
    def orientation(self) -> Orientation:
        return Orientation(self.rotation, self.mirrored)

    @property
    def display_size(self) -> tuple[int, int]:
        """(width, height) in square pixels, upright, with the height kept."""
        wide, high = (int(part) for part in self.pixel_aspect.split("/"))
        return max(1, round(self.width * wide / high)), self.height


class AudioInfo(_Record):
    """The audio stream that is heard. Times are as in `VideoInfo`; encoder priming is not counted.

    Of several `tracks` it is the default one; commentary is never taken and a silent one only where all are silent.
    """

    codec: str
    sample_rate: int
    channels: int
    duration_s: float
    start_s: float
    stream: int = 0  # its index in the container
    tracks: int = 1
    dispositions: tuple[str, ...] = ()
    clock_shifts: tuple[ClockShift, ...] = ()


class ImageInfo(_Record):
    """A still picture; `width` and `height` are after the EXIF orientation (1 to 8, 1 is upright)."""

    format: str
    width: int
    height: int
    mode: str
    exif_orientation: int


class Probe(_Record):
    """What a file holds. `clock_zero_s` is the container time that every other time is counted from.

    `clock_breaks_s` are the times at which stamps restarted or leapt: two recordings meet there. `unread_bytes` at the
    end of the file are another recording that its reader does not go on to.
    """

    container: str
    file_bytes: int
    duration_s: float
    clock_zero_s: float
    truncated: bool
    video: VideoInfo | None = None
    audio: AudioInfo | None = None
    image: ImageInfo | None = None
    clock_breaks_s: tuple[float, ...] = ()
    unread_bytes: int = 0


class SoundReport(_Record):
    """The FLAC that was cut; `padded_samples` at its end are silence because the track ended early.

    `gain` (at most 1) is what it was turned down by where folding it, or samples above full scale, would have clipped.
    """

    samples: int
    sample_rate: int
    channels: int
    padded_samples: int
    decode_errors: int
    gain: float = 1.0


class CutReport(_Record):
    """The clip that was cut. `nominal_frames` and `decoded_frames` count source pictures in the span; `decode_errors`
    those that were damaged; `repeated_frames` clip pictures that equal the one before. `sound` is None without a track.
    """

    frames: int
    fps: str
    width: int
    height: int
    repeated_frames: int
    nominal_frames: int
    decoded_frames: int
    decode_errors: int
    sound: SoundReport | None
