"""What makes large clips: keyframes beside the low-resolution sequence, and the refiner (paper, section 4.5)."""

import torch

from model.conditioning import VideoCondition
from model.network.keyframes import keyframe_indices
from model.network.refiner import refiner_condition
from model.sampling.flow import noised
from pipelines.training.latents.sample import LatentSample
from pipelines.training.tasks.base_model import held, nothing_kept, picture, region_kept, sound_if_heard
from pipelines.training.tasks.example import Example, TaskContext, caption


def keyframes(sample: LatentSample, context: TaskContext) -> Example:
    """The low-resolution clip, its sound, and every n-th frame at high resolution in one pass.

    Some start from an image, which is then given at both sizes, as it is when an image is animated and refined. Latent
    0 of a causal codec is its first frame alone.
    """
    video, large = picture(sample), held(sample, sample.large, "large")
    indices = keyframe_indices(video.shape[1], context.settings.refiner.keyframe_spacing)
    chosen = large[:, list(indices)]
    alone = sample.shape is not None and sample.shape.video.causal_first
    given = context.chance(context.settings.keyframes_from_image) and alone
    return Example(
        caption(sample, context),
        video,
        nothing_kept(video, context.black).keeping({0: video[:, 0]} if given else {}),
        sound_if_heard(sample, context),
        keyframes=chosen,
        keyframe_condition=nothing_kept(chosen, context.large_black).keeping({0: chosen[:, 0]} if given else {}),
        keyframe_indices=indices,
    )


def refine(sample: LatentSample, context: TaskContext) -> Example:
    """The refined clip from its low-resolution latents and high-resolution keyframes."""
    return _refined(sample, context, None)


def refine_inpaint(sample: LatentSample, context: TaskContext) -> Example:
    """The same where a source is kept: its latents at full size stand where the mask is 1, and the rest is refined."""
    if not sample.refined_regions:
        raise ValueError(f"{sample.key} holds no regions at the refiner's size: make the cache anew with jobs/cache.py")
    drawn = sample.refined_regions[context.pick(len(sample.refined_regions))]
    return _refined(sample, context, region_kept(drawn))


def _refined(sample: LatentSample, context: TaskContext, source: VideoCondition | None) -> Example:
    """As `model.generation.steps` lays it out for a base's latents and keyframes.

    A little noise on the latents keeps the refiner from trusting them as only true latents deserve. Keyframes are left
    out as often as other references are: a base that makes none can be refined as well. A picture has none: its only
    frame would be what is to be made.
    """
    low, refined = picture(sample)[None], held(sample, sample.refined, "refined")
    pixels = context.settings.refiner.enlarges == "pixels"
    given = held(sample, sample.enlarged, "enlarged")[None] if pixels else low
    level = torch.rand(1, generator=context.generator) * context.settings.low_noise
    given = noised(given, torch.randn(given.shape, generator=context.generator), 1 - level)
    indices = keyframe_indices(low.shape[2], context.settings.refiner.keyframe_spacing)
    size = refined.shape[1], refined.shape[2], refined.shape[3]
    shown = not context.chance(context.settings.dropout.references) and low.shape[2] > 1
    condition = refiner_condition(
        low if pixels else given,
        size,
        enlarged=given if pixels else None,
        keyframes=held(sample, sample.large, "large")[None, :, list(indices)] if shown else None,
        keyframe_indices=indices if shown else (),
        source=source,
    )
    return Example(caption(sample, context), refined, condition)
