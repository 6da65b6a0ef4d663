"""Tasks that keep whole frames: the first, any in between, or a run to extend.

Given frames are encoded on their own, never cut out of the latents of a whole clip: a causal codec carries what
came before into every latent. A single image is one latent, and in a latent of four frames it is the last of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.conditioning.interface import (
    BLACK,
    Conditioning,
    Encode,
    VideoCondition,
    check_size,
    generated_streams,
    unconditioned,
)
from model.shapes import ClipShape


@dataclass(frozen=True)
class ImageToVideo:
    """Start from `image` (B, 3, H, W): keep_mask 1 in latent frame 0."""

    image: Tensor

    def prepare(self, clip: ClipShape, encode_video: Encode, encode_audio: Encode | None = None) -> Conditioning:
        """The image is kept."""
        return Conditioning(generated_streams(clip), _with_images({0: self.image}, clip, encode_video))


@dataclass(frozen=True)
class KeyframesToVideo:
    """Pass through `images`, (B, 3, H, W) each, at `seconds` from the start of the clip."""

    images: Sequence[Tensor]
    seconds: Sequence[float]

    def prepare(self, clip: ClipShape, encode_video: Encode, encode_audio: Encode | None = None) -> Conditioning:
        """The images are kept at the latent frames that show their moments."""
        if not self.images or len(self.images) != len(self.seconds):
            raise ValueError(f"{len(self.images)} keyframes need as many times, not {len(self.seconds)}")
        placed: dict[int, Tensor] = {}
        for image, moment in zip(self.images, self.seconds, strict=True):
            latent = clip.latent_at(moment)
            if latent in placed:
                raise ValueError(f"two keyframes fall into latent frame {latent} (near {moment} s): move them apart")
            placed[latent] = image
        return Conditioning(generated_streams(clip), _with_images(placed, clip, encode_video))


@dataclass(frozen=True)
class ExtendForward:
    """Continue `video` (B, 3, f, H, W), which must fill whole latents: keep_mask 1 in its latent frames."""

    video: Tensor

    def prepare(self, clip: ClipShape, encode_video: Encode, encode_audio: Encode | None = None) -> Conditioning:
        """The given frames are the first ones of the clip."""
        return _extension(self.video, clip, encode_video, at_end=False)


@dataclass(frozen=True)
class ExtendBackward:
    """Lead up to `video` (B, 3, f, H, W), which must fill whole latents: keep_mask 1 in the last latent frames."""

    video: Tensor

    def prepare(self, clip: ClipShape, encode_video: Encode, encode_audio: Encode | None = None) -> Conditioning:
        """The given frames are the last ones of the clip."""
        return _extension(self.video, clip, encode_video, at_end=True)


def _with_images(images: Mapping[int, Tensor], clip: ClipShape, encode_video: Encode) -> VideoCondition:
    """Black latents with each of `images` encoded alone at its latent frame."""
    for latent, image in images.items():
        check_size(image, clip, f"the image for latent frame {latent}")
    first = next(iter(images.values()))
    encoded = encode_video(torch.cat(list(images.values()))[:, :, None])[:, :, 0].split(first.shape[0])
    return unconditioned(clip, encode_video, first).keeping(dict(zip(images, encoded, strict=True)))


def _extension(video: Tensor, clip: ClipShape, encode_video: Encode, *, at_end: bool) -> Conditioning:
    check_size(video, clip, "the video to extend")
    given = video.shape[2]
    kept = clip.video.latent_frames(given)
    if given >= clip.frames:
        raise ValueError(f"the video has {given} frames, the extended clip only {clip.frames}: ask for a longer one")
    start = clip.latent_frames - kept if at_end else 0
    condition = unconditioned(clip, encode_video, video)
    condition = condition.keeping(dict(enumerate(encode_video(video).unbind(2), start)))

    first = clip.frames - given if at_end else 0
    source = video.new_full((*video.shape[:2], clip.frames, *video.shape[3:]), BLACK)
    source[:, :, first : first + given] = video
    source_keep = torch.zeros_like(source[:, :1], dtype=torch.bool)
    source_keep[:, :, first : first + given] = True
    return Conditioning(generated_streams(clip), condition, source=source, source_keep=source_keep)
