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
    """The base's video branch alone, with sparse attention, of the depth that `refiner` says."""
    return dataclasses.replace(
        base,
        audio_channels=0,
        sparse=True,
        sparse_min_tokens=refiner.sparse_min_tokens,
        dual_blocks=base.dual_blocks if refiner.dual_blocks is None else refiner.dual_blocks,
        single_blocks=base.single_blocks if refiner.single_blocks is None else refiner.single_blocks,
        prediction=refiner.prediction or base.prediction,
    )


def base_layers(refiner: TransformerConfig, base: TransformerConfig) -> tuple[int, ...]:
    """Which layer of its base each layer of a refiner starts as: the first dual ones and the last single ones.

    The first know latents from noise, the last turn what is known into latents. Raises ValueError for a refiner that
    is deeper than its base.
    """
    if refiner.dual_blocks > base.dual_blocks or refiner.single_blocks > base.single_blocks:
        raise ValueError(
            f"a refiner of {refiner.dual_blocks} dual and {refiner.single_blocks} single blocks is deeper than its "
            f"base of {base.dual_blocks} and {base.single_blocks}: lower refiner.dual_blocks or refiner.single_blocks"
        )
    return (*range(refiner.dual_blocks), *range(base.layers - refiner.single_blocks, base.layers))


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
    enlarged: Tensor | None = None,
    keyframes: Tensor | None = None,
    keyframe_indices: tuple[int, ...] = (),
    source: VideoCondition | None = None,
) -> VideoCondition:
    """What is refined, and what is kept: I and M of the refiner's (V, I, M) input.

    low: (B, C, T, H, W) latents of all frames; target: (T', H', W') of the refined latents. enlarged: the low clip
    at that size already (see `enlarged_pixels`), in the place of interpolated latents. keyframes: latents
    (B, C, K, H', W') of the low-resolution frames `keyframe_indices`, which overwrite what was interpolated. source:
    in inpainting, condition latents of the high-resolution source, laid in where its keep_mask is 1.
    """
    latents = upsample_latents(low, target) if enlarged is None else enlarged
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


def enlarged_pixels(low: Tensor, clip: ClipShape, decode_video: Encode, encode_video: Encode) -> Tensor:
    """Latents (B, C, T', H', W') of the pixels that `low` (B, C, T, H, W) decodes to, at the refined clip's size and
    rate: linear along each axis, as `upsample_latents`.
    """
    frames = decode_video(low)
    pixels = F.interpolate(frames.transpose(1, 2).flatten(0, 1), (clip.height, clip.width), mode="bilinear")
    return encode_video(resample_frames(pixels.unflatten(0, (len(low), -1)).transpose(1, 2), clip.frames))


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
