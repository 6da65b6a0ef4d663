"""Tasks without pixels to keep: from text alone, or from one whole stream to the other."""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.conditioning.interface import (
    VIDEO_AND_AUDIO,
    Conditioning,
    Encode,
    VideoCondition,
    check_size,
    unconditioned,
)
from model.shapes import ClipShape


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
