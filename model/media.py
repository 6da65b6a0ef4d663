"""Pictures and sound as callers have them (PIL, numpy, torch) to tensors in [-1, 1] of a clip's size, and back."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Image: TypeAlias = Any
"""PIL image, numpy (H, W, 3) uint8 or float in [0, 1], or tensor (3, H, W) in [-1, 1]."""
Video: TypeAlias = Any
"""A sequence of PIL images, numpy (F, H, W, 3) uint8 or float in [0, 1], or tensor (3, F, H, W) in [-1, 1]."""
Mask: TypeAlias = Any
"""1 (or True, or white) = generate, as in diffusers: PIL, numpy or tensor (H, W) for all frames, or (F, H, W)."""
OutputType = Literal["np", "pt", "pil", "stream", "latent"]


def image_tensor(image: Image) -> Tensor:
    """(3, H, W) in [-1, 1]."""
    return video_tensor(image if isinstance(image, Tensor) else np.asarray(image)[None], of_image=True)[:, 0]


def video_tensor(video: Video, *, of_image: bool = False) -> Tensor:
    """(3, F, H, W) in [-1, 1]."""
    what = "an image" if of_image else "a video"
    if isinstance(video, Tensor):
        tensor = video[:, None] if of_image else video
        if tensor.ndim != 4 or tensor.shape[0] != 3 or not tensor.is_floating_point():
            expected = "(3, H, W)" if of_image else "(3, F, H, W)"
            found = f"{tuple(video.shape)} {video.dtype}"
            raise ValueError(f"{what} tensor must be {expected} floats in [-1, 1], not {found}")
        return tensor.float()
    array = _stacked(video)
    if array.ndim != 4 or array.shape[-1] not in (3, 4):
        raise ValueError(f"{what} array must end in (H, W, 3), not {array.shape[1:] if of_image else array.shape}")
    scale = 255.0 if array.dtype == np.uint8 else 1.0
    pixels = torch.from_numpy(np.ascontiguousarray(array[..., :3], dtype=np.float32)) / scale
    return pixels.permute(3, 0, 1, 2) * 2 - 1


def packed(video: Video, *, of_image: bool = False) -> Tensor:
    """As small as it was given: bytes stay (F, H, W, 3) uint8, all else is (3, F, H, W) in [-1, 1]; F is 1 of an image.

    `unpacked` gives the pixels.
    """
    if not isinstance(video, Tensor):
        array = np.asarray(video)[None] if of_image else _stacked(video)
        if array.dtype == np.uint8 and array.ndim == 4 and array.shape[-1] in (3, 4):
            return torch.from_numpy(np.require(array[..., :3], requirements=["C", "W"]))
    return image_tensor(video)[:, None] if of_image else video_tensor(video)


def unpacked(pixels: Tensor) -> Tensor:
    """What `packed` made, as (3, F, H, W) in [-1, 1]."""
    return video_tensor(pixels.numpy()) if pixels.dtype == torch.uint8 else pixels


def frames_and_size(pixels: Tensor) -> tuple[int, int, int]:
    """(F, H, W) of what `packed` made."""
    frames, height, width = pixels.shape[:3] if pixels.dtype == torch.uint8 else pixels.shape[1:]
    return frames, height, width


def keep_mask_tensor(mask: Mask) -> Tensor:
    """(1, F or 1, H, W) bool, True = keep: the other way round from what callers give."""
    array = mask if isinstance(mask, Tensor) else torch.from_numpy(np.array(mask))
    array = array.bool() if not array.is_floating_point() else array > 0.5
    if array.ndim not in (2, 3):
        raise ValueError(f"a mask must be (H, W) or (F, H, W), not {tuple(array.shape)}")
    return ~(array if array.ndim == 3 else array[None])[None]


def cover(pixels: Tensor, height: int, width: int) -> Tensor:
    """Scale (C, F, h, w) until it covers height x width, and cut the middle out."""
    old_height, old_width = pixels.shape[-2:]
    if (old_height, old_width) == (height, width):
        return pixels
    scale = max(height / old_height, width / old_width)
    size = (max(height, round(old_height * scale)), max(width, round(old_width * scale)))
    flat = F.interpolate(pixels.transpose(0, 1), size, mode="bilinear", antialias=True)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return flat[..., top : top + height, left : left + width].transpose(0, 1)


def cover_mask(keep: Tensor, height: int, width: int) -> Tensor:
    """As `cover` for keep masks: a pixel is kept only where all that it shows was to be kept."""
    return cover(keep.float(), height, width) > 0.999


def resample_frames(frames: Tensor, count: int) -> Tensor:
    """(B, C, F, H, W) to `count` frames, linear in time; the first and the last stay."""
    given = frames.shape[2]
    if given == count:
        return frames
    places = torch.linspace(0, given - 1, count, device=frames.device)
    before = places.floor().long().clamp(max=max(given - 2, 0))
    after = (before + 1).clamp(max=given - 1)
    return torch.lerp(frames[:, :, before], frames[:, :, after], (places - before).view(1, 1, -1, 1, 1))


def output_frames(frames: Tensor, kind: OutputType) -> Any:
    """(3, F, H, W) in [-1, 1] as uint8 numpy (F, H, W, 3), the tensor itself, or PIL images."""
    if kind == "pt":
        return frames
    array = ((frames.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).cpu().numpy()
    if kind == "np":
        return array
    from PIL import Image as PILImage

    return [PILImage.fromarray(frame) for frame in array]


def _stacked(video: Video) -> np.ndarray:
    return np.stack([np.asarray(frame) for frame in video]) if isinstance(video, Sequence) else np.asarray(video)
