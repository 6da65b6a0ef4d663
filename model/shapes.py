"""The one place where seconds, frames, samples, latents and tokens meet. Every length is derived from the codecs.

81 frames at 16 fps last 5.0625 s; stride 4 makes 21 video latents of them, and 44.1 kHz audio at 1024 samples per
latent makes 218 audio latents: the two numbers, and the ratio 21/218, of the SkyReels-V4 paper (section 3.1).
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class VideoCodecSpec:
    """What the transformer must know of a video codec.

    `stride` is (time, height, width) in pixels per latent. With `causal_first` the first latent covers one frame and
    every later one `stride[0]` frames, so a clip holds `stride[0] * n + 1` frames.
    """

    channels: int
    stride: tuple[int, int, int] = (4, 8, 8)
    causal_first: bool = True

    def latent_frames(self, frames: int) -> int:
        """Latents that hold `frames` frames. Raises ValueError where the frames do not fill whole latents."""
        lead = 1 if self.causal_first else 0
        if frames < max(lead, 1) or (frames - lead) % self.stride[0]:
            rule = f"{self.stride[0]} * n" + (" + 1" if lead else "")
            raise ValueError(f"{frames} frames do not fill whole video latents: use {rule} frames")
        return (frames - lead) // self.stride[0] + lead

    def frames_of(self, latent_frames: int) -> int:
        """Frames that `latent_frames` latents decode to."""
        lead = 1 if self.causal_first else 0
        return (latent_frames - lead) * self.stride[0] + lead

    def nearest_frames(self, frames: float) -> int:
        """The whole number of latents' worth of frames closest to `frames`, at least one latent."""
        lead = 1 if self.causal_first else 0
        return self.frames_of(max(round((frames - lead) / self.stride[0]) + lead, 1))

    def whole_frames(self, frames: int) -> int:
        """The most frames, at most `frames`, that fill whole latents."""
        nearest = self.nearest_frames(frames)
        return nearest if nearest <= frames else nearest - self.stride[0]

    def frame_span(self, latent: int) -> range:
        """Frames that latent `latent` covers: 0 alone for the first of a causal codec, then `stride[0]` each."""
        if not self.causal_first:
            return range(latent * self.stride[0], (latent + 1) * self.stride[0])
        return range(max((latent - 1) * self.stride[0] + 1, 0), latent * self.stride[0] + 1)

    def latent_of_frame(self, frame: int) -> int:
        """The latent that covers frame `frame`."""
        return math.ceil(frame / self.stride[0]) if self.causal_first else frame // self.stride[0]


@dataclass(frozen=True)
class AudioCodecSpec:
    """What the transformer must know of an audio codec: `hop` is samples per latent."""

    channels: int
    sample_rate: int
    hop: int
    stereo: bool = False

    @property
    def latent_rate(self) -> float:
        """Latents per second."""
        return self.sample_rate / self.hop

    def latent_length(self, samples: int) -> int:
        """Whole latents in `samples` samples."""
        return samples // self.hop

    def samples_of(self, latents: int) -> int:
        """Samples that `latents` latents decode to."""
        return latents * self.hop


@dataclass(frozen=True)
class ClipShape:
    """One clip's extent in pixels and seconds, and through its codecs in latents.

    `audio` is None for silent clips and images (one frame). Raises ValueError where a side or the frame count does
    not fill whole latents.
    """

    frames: int
    fps: float
    height: int
    width: int
    video: VideoCodecSpec
    audio: AudioCodecSpec | None = None

    def __post_init__(self) -> None:
        self.video.latent_frames(self.frames)
        for name, size, stride in zip(
            ("height", "width"), (self.height, self.width), self.video.stride[1:], strict=True
        ):
            if size < stride or size % stride:
                raise ValueError(f"{name} {size} is not a positive multiple of the video codec's stride {stride}")
        if self.audio is not None and self.audio_latent_length < 1:
            raise ValueError(
                f"{self.seconds:.4f} s hold no whole audio latent ({self.audio.hop} samples at "
                f"{self.audio.sample_rate} Hz): make the clip longer or leave the audio codec out"
            )

    @classmethod
    def from_seconds(
        cls,
        seconds: float,
        fps: float,
        height: int,
        width: int,
        video: VideoCodecSpec,
        audio: AudioCodecSpec | None = None,
    ) -> "ClipShape":
        """The clip of whole latents closest to `seconds`: 5 s at 16 fps are 81 frames, 5.0625 s."""
        return cls(video.nearest_frames(seconds * fps), fps, height, width, video, audio)

    @property
    def seconds(self) -> float:
        """How long the frames are shown."""
        return self.frames / self.fps

    @property
    def latent_frames(self) -> int:
        """T of the video latents."""
        return self.video.latent_frames(self.frames)

    @property
    def latent_size(self) -> tuple[int, int]:
        """(H, W) of the video latents."""
        return self.height // self.video.stride[1], self.width // self.video.stride[2]

    @property
    def video_latent_shape(self) -> tuple[int, int, int, int]:
        """(C, T, H, W)."""
        return (self.video.channels, self.latent_frames, *self.latent_size)

    @property
    def audio_samples(self) -> int:
        """Samples per audio channel that last as long as the frames; 0 without audio."""
        return round(self.seconds * self.audio.sample_rate) if self.audio else 0

    @property
    def audio_latent_length(self) -> int:
        """L of the audio latents; 0 without audio."""
        return self.audio.latent_length(self.audio_samples) if self.audio else 0

    @property
    def audio_latent_shape(self) -> tuple[int, int]:
        """(Ca, L)."""
        if self.audio is None:
            raise ValueError("this clip has no audio codec, so it has no audio latents")
        return self.audio.channels, self.audio_latent_length

    @property
    def audio_time_scale(self) -> float:
        """Video latents per audio latent: what audio positions are multiplied by (21/218 at 81 frames, 16 fps).

        Paper, section 3.1, taken per clip: both streams span the same seconds at every length, where the constant
        21/218 would put the end of a 15 s clip more than one video latent late.
        """
        return self.latent_frames / self.audio_latent_shape[1]

    def latent_at(self, seconds: float) -> int:
        """The video latent that shows the moment `seconds`; the last one for the clip's end."""
        if not 0 <= seconds <= self.seconds:
            raise ValueError(f"{seconds} s lies outside the clip of {self.seconds:.4f} s")
        return self.video.latent_of_frame(min(int(seconds * self.fps), self.frames - 1))
