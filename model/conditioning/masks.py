"""Pixel masks: 1 = keep, 0 = generate, as everywhere (VACE's are the opposite: convert where they come in).

They say what a codec is shown before, and which of the source's own pixels come back after.
"""

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


def composite(generated: Tensor, source: Tensor, keep_mask: Tensor, feather: int = 8) -> Tensor:
    """`source` where `keep_mask` is 1, bit for bit; elsewhere `generated`, its seam evened out.

    All are (B, 3, F, H, W) in [-1, 1], the mask (B, 1, F, H, W). Generation and codec shift colours a little, which
    shows at the border. Blending the source over the border would bring back what was edited away, so the difference
    between source and generation, known on kept pixels only, is carried over the border and fades within about
    `feather` pixels.
    """
    keep = keep_mask.bool()
    frames = []
    for made, own, kept in zip(generated.unbind(2), source.unbind(2), keep.unbind(2), strict=True):
        frames.append(torch.where(kept, own, _evened(made, own, kept, feather)))
    return torch.stack(frames, dim=2)


def _evened(generated: Tensor, source: Tensor, keep: Tensor, feather: int) -> Tensor:
    """One frame (B, 3, H, W) with the blurred difference of kept pixels added: normalised convolution."""
    if feather < 1:
        return generated
    known = keep.to(generated)
    weight = _blur(known, feather)
    difference = _blur(torch.where(keep, source - generated, 0), feather) / weight.clamp(min=1e-4)
    # The blurred mask is 1/2 on a straight border and falls to 0 where nothing kept is near.
    return (generated + difference * (2 * weight).clamp(max=1)).clamp(-1, 1)


def _blur(image: Tensor, feather: int) -> Tensor:
    """Gaussian of standard deviation feather / 2 over (B, C, H, W), border pixels repeated outside."""
    channels = image.shape[1]
    offsets = torch.arange(-feather, feather + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-2 * (offsets / feather).square())
    kernel = (kernel / kernel.sum()).expand(channels, 1, 1, -1)
    image = F.conv2d(F.pad(image, (feather, feather, 0, 0), "replicate"), kernel, groups=channels)
    return F.conv2d(F.pad(image, (0, 0, feather, feather), "replicate"), kernel.transpose(2, 3), groups=channels)
