"""What a probe says about a file, as records that can be stored and sent."""

from pydantic import BaseModel, ConfigDict

from skyreels.media.orientation import Orientation


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class VideoInfo(_Record):
    """A video stream. Times are seconds after `Probe.clock_zero_s`.

    `width` and `height` are after rotation, in stored pixels (see `display_size` for square ones); `rotation`
    (clockwise degrees) and then `mirrored` turn the stored picture upright. `fps` is "num/den". `header_frames` is
    what the index promises (None where the container has no such number), `packets` what the file really carries
    and `shown_packets` those of them that no edit list hides.
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

    @property
    def keyframes(self) -> int:
        return len(self.keyframe_times_s)

    @property
    def orientation(self) -> Orientation:
        return Orientation(self.rotation, self.mirrored)

    @property
    def display_size(self) -> tuple[int, int]:
        """(width, height) in square pixels, upright, with the height kept."""
        wide, high = (int(part) for part in self.pixel_aspect.split("/"))
        return max(1, round(self.width * wide / high)), self.height


class AudioInfo(_Record):
    """An audio stream. Times are seconds after `Probe.clock_zero_s`; encoder priming is not counted."""

    codec: str
    sample_rate: int
    channels: int
    duration_s: float
    start_s: float


class ImageInfo(_Record):
    """A still picture; `width` and `height` are after the EXIF orientation (1 to 8, 1 is upright)."""

    format: str
    width: int
    height: int
    mode: str
    exif_orientation: int


class Probe(_Record):
    """What a file holds. `clock_zero_s` is the container time that every other time is counted from."""

    container: str
    file_bytes: int
    duration_s: float
    clock_zero_s: float
    truncated: bool
    video: VideoInfo | None = None
    audio: AudioInfo | None = None
    image: ImageInfo | None = None


class SoundReport(_Record):
    """The FLAC that was cut; `padded_samples` at its end are silence because the track ended early."""

    samples: int
    sample_rate: int
    channels: int
    padded_samples: int
    decode_errors: int


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
