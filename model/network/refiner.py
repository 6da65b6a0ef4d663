"""The refiner: super-resolution and frame interpolation in one pass of the base video branch (paper, section 4.5).

It is the base with Video Sparse Attention, and starts from the base's weights: low-resolution latents are laid onto
the high-resolution grid, high-resolution keyframe latents overwrite theirs, and the result stands where the base has
condition latents, beside noise and a mask. So the refiner's input has the base's channels, and no layer is new but
the gates of sparse attention, which start at zero.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from model.conditioning import Encode, VideoCondition, blank, latent_keep_mask
from model.config import RefinerConfig, TransformerConfig
from model.media import resample_frames
from model.shapes import ClipShape
from model.tiles import Tiles


def refiner_config(base: TransformerConfig, refiner: RefinerConfig) -> TransformerConfig:
    """The base's video branch alone, with sparse attention."""
    return dataclasses.replace(base, audio_channels=0, sparse=True, sparse_min_tokens=refiner.sparse_min_tokens)


def refined_clip(clip: ClipShape, refiner: RefinerConfig) -> ClipShape:
    """What a base clip becomes: 81 frames at 16 fps become 161 at 32, sides grow by `space_factor`.

    The last frame stays the last and is now shown half as long: sound is cut to the new end, 31 ms at 16 fps.
    """
    return dataclasses.replace(
        clip,
        frames=(clip.frames - 1) * refiner.time_factor + 1,
        fps=clip.fps * refiner.time_factor,
        height=clip.height * refiner.space_factor,
        width=clip.width * refiner.space_factor,
    )


def refiner_tiles(config: TransformerConfig, refiner: RefinerConfig, clip: ClipShape) -> Tiles:
    """Of the latents of a refined `clip`: `refiner.tile` in whole tokens, an eighth shared; one where that holds it."""
    size, patch = clip.latent_size, config.patch[1:]
    if not refiner.tile:
        return Tiles.over(size, size, (1, 1))
    strides = clip.video.stride[1:]
    tokens = [max(side // (stride * part), 2) for side, stride, part in zip(refiner.tile, strides, patch, strict=True)]
    rows, columns = (count * part for count, part in zip(tokens, patch, strict=True))
    down, across = (max(count // 8, 1) * part for count, part in zip(tokens, patch, strict=True))
    return Tiles.over(size, (rows, columns), (down, across))


def refiner_condition(
    low: Tensor,
    target: tuple[int, int, int],
    *,
    keyframes: Tensor | None = None,
    keyframe_indices: tuple[int, ...] = (),
    source: VideoCondition | None = None,
) -> VideoCondition:
    """What is refined, and what is kept: I and M of the refiner's (V, I, M) input.

    low: (B, C, T, H, W) latents of all frames; target: (T', H', W') of the refined latents. keyframes: latents
    (B, C, K, H', W') of the low-resolution frames `keyframe_indices`, which overwrite what was interpolated. source:
    in inpainting, condition latents of the high-resolution source, laid in where its keep_mask is 1.
    """
    latents = upsample_latents(low, target)
    if keyframes is not None:
        if keyframes.shape[2] != len(keyframe_indices) or keyframes.shape[-2:] != target[1:]:
            raise ValueError(
                f"keyframe latents {tuple(keyframes.shape)} must be {len(keyframe_indices)} frames of {target[1:]}"
            )
        places = [refined_index(index, low.shape[2], target[0]) for index in keyframe_indices]
        latents = latents.index_copy(2, torch.tensor(places, device=low.device), keyframes.to(latents))
    keep_mask = torch.zeros_like(latents[:, :1])
    if source is not None:
        keep_mask = source.keep_mask.expand_as(keep_mask).to(latents)
        latents = torch.where(keep_mask.bool(), source.latents.to(latents), latents)
    return VideoCondition(latents, keep_mask)


def refined_source(
    source: Tensor, keep: Tensor, clip: ClipShape, encode_video: Encode
) -> tuple[Tensor, Tensor, VideoCondition]:
    """What is kept of a source in the refined `clip`: pixels, keep mask, and what the refiner is shown of them."""
    source, keep = resampled_source(source, keep, clip)
    latents = encode_video(blank(source, keep))
    return source, keep, VideoCondition(latents, latent_keep_mask(keep, clip.video).to(latents))


def resampled_source(source: Tensor, keep: Tensor, clip: ClipShape) -> tuple[Tensor, Tensor]:
    """`source` (B, 3, F, H, W) and `keep` (B, 1, F, H, W), of the refined size and the base's frame rate, at the
    clip's. A frame between two is blended from both, and kept where both are.
    """
    return resample_frames(source, clip.frames), resample_frames(keep.float(), clip.frames) > 0.999


def upsample_latents(low: Tensor, target: tuple[int, int, int]) -> Tensor:
    """(B, C, T, H, W) to (B, C, T', H', W'), linear along each axis.

    In time first falls on first and last on last; in space pixel areas meet, as with images.
    """
    batch, _, frames, _, _ = low.shape
    flat = low.transpose(1, 2).flatten(0, 1).float()
    flat = F.interpolate(flat, target[1:], mode="bilinear", align_corners=False)
    spatial = flat.unflatten(0, (batch, frames)).transpose(1, 2)
    if frames == 1:
        still: Tensor = spatial.expand(-1, -1, target[0], -1, -1).to(low.dtype)
        return still
    lines = spatial.flatten(3).movedim(2, -1).flatten(0, 1).flatten(1, -2)
    lines = F.interpolate(lines, target[0], mode="linear", align_corners=True)
    made: Tensor = lines.unflatten(0, low.shape[:2]).unflatten(2, target[1:]).movedim(-1, 2).to(low.dtype)
    return made


def refined_index(index: int, frames: int, target_frames: int) -> int:
    """The refined latent frame at the place of low-resolution latent frame `index` of `frames`."""
    return round(index * (target_frames - 1) / max(frames - 1, 1))
