"""The one interface all tasks share, condition latents I and keep_mask M beside the noisy latents V; and the tasks
without pixels to keep: from text alone, or from a whole video to its sound.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from model.shapes import ClipShape

Encode = Callable[[Tensor], Tensor]
"""A codec's encoder. Video: pixels (B, 3, F, H, W) in [-1, 1] to normalised latents (B, C, T, h, w).
Audio: waveforms (B, channels, samples) to (B, Ca, L)."""

BLACK = -1.0
"""The value of a black pixel in [-1, 1]."""

VIDEO_AND_AUDIO = frozenset({"video", "audio"})


@dataclass(frozen=True)
class VideoCondition:
    """I and M of the paper's Concat(V, I, M).

    `latents` (B, C, T, h, w): condition latents, black-image latents where there is none. `keep_mask` (B, 1, T, h, w)
    float: 1 = keep, 0 = generate; what is shown and not kept may be changed. B may be 1 and serve any batch.
    """

    latents: Tensor
    keep_mask: Tensor

    @classmethod
    def nothing(cls, black: Tensor, frames: int) -> "VideoCondition":
        """Nothing to keep: the latent of a black image (B, C, 1, h, w) in every latent frame."""
        return cls.shown(black.expand(-1, -1, frames, -1, -1))

    @classmethod
    def shown(cls, latents: Tensor) -> "VideoCondition":
        """A whole clip (B, C, T, h, w) to go by, of which nothing must stay: the source of an edit."""
        return cls(latents, torch.zeros_like(latents[:, :1]))

    def keeping(self, frames: Mapping[int, Tensor]) -> "VideoCondition":
        """The same with latent frames (B, C, h, w), or (C, h, w) for all of the batch, kept at their places."""
        if not frames:
            return self
        batch = max(self.latents.shape[0], *(len(frame) if frame.ndim == 4 else 1 for frame in frames.values()))
        latents = self.latents.expand(batch, -1, -1, -1, -1).clone()
        keep_mask = self.keep_mask.expand(batch, -1, -1, -1, -1).clone()
        for place, frame in frames.items():
            latents[:, :, place] = frame
            keep_mask[:, :, place] = 1
        return VideoCondition(latents, keep_mask)

    def channels(self, noisy: Tensor) -> Tensor:
        """The transformer's video input (B, 2C+1, T, h, w) for noisy latents V (B, C, T, h, w)."""
        batch = noisy.shape[0]
        parts = (part.expand(batch, *part.shape[1:]).to(noisy) for part in (self.latents, self.keep_mask))
        return torch.cat((noisy, *parts), 1)


@dataclass(frozen=True)
class Conditioning:
    """What a task makes of its pixels and sound.

    `generates` names the streams to sample. `given` holds clean latents of streams that are inputs: they enter the
    model at timestep 1 and take no loss. `condition` is None for audio alone. `edited` (B, 3, F, H, W) is the clip that
    it shows where all of it may change, for the prompt encoder to read.
    `source` (B, 3, F, H, W) and `source_keep` (B, 1, F, H, W) bool tell which output pixels are the source's own.
    """

    generates: frozenset[str]
    condition: VideoCondition | None = None
    given: Mapping[str, Tensor] = field(default_factory=dict)
    edited: Tensor | None = None
    source: Tensor | None = None
    source_keep: Tensor | None = None


class GenerationTask(Protocol):
    """A kind of generation with the media it starts from."""

    def prepare(self, clip: ClipShape, encode_video: Encode, encode_audio: Encode | None = None) -> Conditioning:
        """Encode what is given for a clip of that shape. Raises ValueError where the media do not fit it."""
        ...


def generated_streams(clip: ClipShape) -> frozenset[str]:
    """Video, and audio where the clip has a codec for it."""
    return VIDEO_AND_AUDIO if clip.audio is not None else frozenset({"video"})


def unconditioned(clip: ClipShape, encode_video: Encode, like: Tensor | None = None) -> VideoCondition:
    """Black-image latents in every frame and nothing to keep, in the device and precision of pixels `like`."""
    black = torch.full((1, 3, 1, clip.height, clip.width), BLACK)
    return VideoCondition.nothing(encode_video(black if like is None else black.to(like)), clip.latent_frames)


def check_size(pixels: Tensor, clip: ClipShape, what: str) -> None:
    """Raise ValueError unless the last two dimensions are the clip's height and width."""
    if pixels.shape[-2:] != (clip.height, clip.width):
        raise ValueError(
            f"{what} is {tuple(pixels.shape[-2:])} pixels but the clip {(clip.height, clip.width)}: resize it first"
        )


@dataclass(frozen=True)
class TextToVideo:
    """Silent video from text: keep_mask all 0. An image is a clip of one frame."""

    def prepare(self, clip: ClipShape, encode_video: Encode, encode_audio: Encode | None = None) -> Conditioning:
        """Nothing is given."""
        return Conditioning(frozenset({"video"}), unconditioned(clip, encode_video))


@dataclass(frozen=True)
class TextToAudioVideo:
    """Video with its sound from text."""

    def prepare(self, clip: ClipShape, encode_video: Encode, encode_audio: Encode | None = None) -> Conditioning:
        """Nothing is given."""
        _need_audio(clip)
        return Conditioning(VIDEO_AND_AUDIO, unconditioned(clip, encode_video))


@dataclass(frozen=True)
class TextToAudio:
    """Sound from text: the audio branch alone."""

    def prepare(self, clip: ClipShape, encode_video: Encode, encode_audio: Encode | None = None) -> Conditioning:
        """Nothing is given."""
        _need_audio(clip)
        return Conditioning(frozenset({"audio"}))


@dataclass(frozen=True)
class VideoToAudio:
    """Sound for a silent `video` (B, 3, F, H, W), which stands at timestep 1."""

    video: Tensor

    def prepare(self, clip: ClipShape, encode_video: Encode, encode_audio: Encode | None = None) -> Conditioning:
        """The whole video is kept."""
        _need_audio(clip)
        check_size(self.video, clip, "the video")
        if self.video.shape[2] != clip.frames:
            raise ValueError(f"the video has {self.video.shape[2]} frames but the clip {clip.frames}")
        latents = encode_video(self.video)
        condition = VideoCondition(latents, torch.ones_like(latents[:, :1]))
        keep = torch.ones_like(self.video[:, :1], dtype=torch.bool)
        return Conditioning(
            frozenset({"audio"}), condition, given={"video": latents}, source=self.video, source_keep=keep
        )


def _need_audio(clip: ClipShape) -> None:
    if clip.audio is None:
        raise ValueError("this task makes or takes sound: give the clip an audio codec")
