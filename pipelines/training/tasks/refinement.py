"""What makes large clips: keyframes beside the low-resolution sequence, and the refiner (paper, section 4.5)."""

from dataclasses import replace

import torch

from model.flow import noised
from model.keyframes import keyframe_indices
from model.refiner import refiner_condition
from pipelines.training.latents.sample import LatentSample
from pipelines.training.tasks.condition import nothing
from pipelines.training.tasks.example import Example, Scene
from pipelines.training.tasks.streams import held, picture, sound_if_heard
from pipelines.training.tasks.text import caption


def keyframes(sample: LatentSample, scene: Scene) -> Example:
    """The low-resolution clip, its sound, and every n-th frame at high resolution in one pass."""
    video, large = picture(sample), held(sample, sample.large, "large")
    indices = keyframe_indices(video.shape[1], scene.settings.refiner.keyframe_spacing)
    chosen = large[:, list(indices)]
    example = Example(caption(sample, scene), video, nothing(video, scene.black), sound_if_heard(sample, scene))
    return replace(
        example,
        keyframes=chosen,
        keyframe_condition=nothing(chosen, scene.large_black),
        keyframe_indices=indices,
    )


def refine(sample: LatentSample, scene: Scene) -> Example:
    """The refined clip from its low-resolution latents and high-resolution keyframes.

    A little noise on the first keeps the refiner from trusting them as only true latents deserve. Keyframes are left
    out as often as other references are: a base that makes none can be refined as well. A picture has none: its only
    frame would be what is to be made.
    """
    low, refined = picture(sample), held(sample, sample.refined, "refined")
    level = torch.rand(1, generator=scene.generator) * scene.settings.low_noise
    low = noised(low[None], torch.randn(low[None].shape, generator=scene.generator), 1 - level)
    indices = keyframe_indices(low.shape[2], scene.settings.refiner.keyframe_spacing)
    frames, height, width = refined.shape[1:]
    given = not scene.chance(scene.settings.dropout.references) and low.shape[2] > 1
    condition = refiner_condition(
        low,
        (frames, height, width),
        keyframes=held(sample, sample.large, "large")[None, :, list(indices)] if given else None,
        keyframe_indices=indices if given else (),
    )
    return Example(caption(sample, scene), refined, condition)
