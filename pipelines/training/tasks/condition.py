"""I and M of an example: black latents with nothing to keep, and what a task lays over them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from model.conditioning import VideoCondition


def nothing(video: Tensor, black: Tensor | None) -> VideoCondition:
    """The condition of text alone, for a clip (C, T, h, w) and the latent (C, 1, h, w) of a black image."""
    if black is None:
        raise ValueError("this bucket has no black image: its samples are sound alone")
    latents = black.expand(-1, video.shape[1], -1, -1)[None]
    return VideoCondition(latents, torch.zeros_like(latents[:, :1]))


def frames(video: Tensor, placed: Mapping[int, Tensor], black: Tensor | None) -> VideoCondition:
    """Keeps latent frames (C, h, w) at their places."""
    condition = nothing(video, black)
    latents, keep_mask = condition.latents.clone(), condition.keep_mask.clone()
    for place, frame in placed.items():
        latents[0, :, place] = frame
        keep_mask[0, :, place] = 1
    return VideoCondition(latents, keep_mask)


def region(latents: Tensor, keep_mask: Tensor) -> VideoCondition:
    """Keeps all but a region: latents (C, T, h, w) of the blanked clip, keep_mask (1, T, h, w)."""
    return VideoCondition(latents[None], keep_mask[None].to(latents))
