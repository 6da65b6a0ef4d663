"""Tasks that keep part of the picture: inpainting and editing of regions, static or moving.

The sound of an inpainted clip is generated anew: audio is never masked (paper, section 3.2).
"""

from dataclasses import dataclass

from torch import Tensor

from model.conditioning.interface import (
    Conditioning,
    Encode,
    VideoCondition,
    check_size,
    generated_streams,
)
from model.conditioning.masks import blank, latent_keep_mask
from model.shapes import ClipShape


@dataclass(frozen=True)
class Inpainting:
    """Generate where `keep_mask` is 0. `video` (B, 3, F, H, W); `keep_mask` (B, 1, F or 1 for static, H, W)."""

    video: Tensor
    keep_mask: Tensor

    def prepare(self, clip: ClipShape, encode_video: Encode, encode_audio: Encode | None = None) -> Conditioning:
        """All but the region is kept; the region is black before anything is encoded."""
        _check_source(self.video, clip)
        if self.keep_mask.shape[2] not in (1, clip.frames):
            raise ValueError(f"keep_mask has {self.keep_mask.shape[2]} frames; give 1 or the clip's {clip.frames}")
        check_size(self.keep_mask, clip, "keep_mask")
        keep = self.keep_mask.bool().expand(self.video.shape[0], 1, clip.frames, clip.height, clip.width)
        latents = encode_video(blank(self.video, keep))
        condition = VideoCondition(latents, latent_keep_mask(keep, clip.video).to(latents))
        return Conditioning(generated_streams(clip), condition, source=self.video, source_keep=keep)


@dataclass(frozen=True)
class Editing:
    """Change the whole of `video` (B, 3, F, H, W) as the prompt says: style, camera, weather.

    The source is shown where its frames will be, and to the prompt encoder, and nothing is kept (decision 0158). Within
    a region it is `Inpainting`: then the model sees the source outside the region only.
    """

    video: Tensor

    def prepare(self, clip: ClipShape, encode_video: Encode, encode_audio: Encode | None = None) -> Conditioning:
        """Nothing is kept."""
        _check_source(self.video, clip)
        return Conditioning(generated_streams(clip), VideoCondition.shown(encode_video(self.video)), edited=self.video)


def _check_source(video: Tensor, clip: ClipShape) -> None:
    check_size(video, clip, "the video")
    if video.shape[2] != clip.frames:
        raise ValueError(f"the video has {video.shape[2]} frames but the clip {clip.frames}")
