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
    """Silent video from text: keep_mask all 0."""

    def prepare(self, clip: ClipShape, encode_video: Encode, encode_audio: Encode | None = None) -> Conditioning:
        """Nothing is given."""
        return Conditioning(frozenset({"video"}), unconditioned(clip, encode_video))


@dataclass(frozen=True)
class TextToImage:
    """An image is a clip of one frame."""

    def prepare(self, clip: ClipShape, encode_video: Encode, encode_audio: Encode | None = None) -> Conditioning:
        """Nothing is given."""
        if clip.frames != 1:
            raise ValueError(f"an image is a clip of 1 frame, not {clip.frames}")
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


@dataclass(frozen=True)
class AudioToVideo:
    """Video for given `audio` (B, channels, samples), which stands at timestep 1; the longer end of it is cut off."""

    audio: Tensor

    def prepare(self, clip: ClipShape, encode_video: Encode, encode_audio: Encode | None = None) -> Conditioning:
        """The whole sound is kept."""
        _need_audio(clip)
        if encode_audio is None:
            raise ValueError("audio-to-video needs the audio codec's encoder")
        if self.audio.shape[-1] < clip.audio_samples:
            raise ValueError(
                f"the audio has {self.audio.shape[-1]} samples but a clip of {clip.seconds:.4f} s "
                f"{clip.audio_samples}: pad it or shorten the clip"
            )
        latents = encode_audio(self.audio[..., : clip.audio_samples])
        condition = unconditioned(clip, encode_video, self.audio)
        return Conditioning(frozenset({"video"}), condition, given={"audio": latents})


def _need_audio(clip: ClipShape) -> None:
    if clip.audio is None:
        raise ValueError("this task makes or takes sound: give the clip an audio codec")
