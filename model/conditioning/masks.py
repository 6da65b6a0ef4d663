"""Pixel masks: 1 = keep, 0 = generate, as everywhere (VACE's are the opposite: convert where they come in)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from model.conditioning.interface import BLACK
from model.shapes import VideoCodecSpec


def latent_keep_mask(keep_mask: Tensor, spec: VideoCodecSpec) -> Tensor:
    """Pixel mask (B, 1, F, H, W) to latent mask (B, 1, T, h, w): a cell is kept only if all of its pixels are.

    Cells are what one latent covers: `stride` pixels, and one frame at the start of a causal codec.
    """
    frames = keep_mask.shape[2]
    lead = spec.stride[0] * spec.latent_frames(frames) - frames
    generate = 1 - keep_mask.float()
    # The first cell of a causal codec is filled up with copies of its only frame.
    generate = torch.cat((generate[:, :, :1].expand(-1, -1, lead, -1, -1), generate), 2)
    return 1 - F.max_pool3d(generate, spec.stride)


def blank(pixels: Tensor, keep_mask: Tensor) -> Tensor:
    """Pixels (B, 3, F, H, W) with all that is to be generated black, so that a codec cannot leak it."""
    return torch.where(keep_mask.bool(), pixels, BLACK)
