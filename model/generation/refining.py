"""The refiner's run after the base's: upsampled latents, keyframes and kept source in, a larger, smoother clip out."""

from collections.abc import Callable

import torch
from torch import Tensor

from model.conditioning import Encode, VideoCondition, blank, latent_keep_mask
from model.config import RefinerConfig
from model.media import resample_frames
from model.network.mmdit import MMDiT
from model.network.refiner import refiner_condition
from model.sampling.denoiser import GuidedVelocity, Scene, TextPair
from model.sampling.guidance import GuidanceScales, Streams
from model.sampling.sampler import Solver, StepEnd, draw_noise, sample, timestep_schedule
from model.shapes import ClipShape

UNGUIDED = GuidanceScales(video=1.0, audio=1.0)


def refine_latents(
    refiner: MMDiT,
    config: RefinerConfig,
    base: Streams,
    clip: ClipShape,
    text: TextPair,
    generator: torch.Generator,
    *,
    keyframe_indices: tuple[int, ...] = (),
    source: VideoCondition | None = None,
    solver: Solver = "euler",
    shift: float = 1.0,
    on_step_end: Callable[[StepEnd], None] | None = None,
) -> Tensor:
    """Video latents (1, C, T, H, W) of the refined `clip` from the base's streams, without guidance."""
    _, frames, height, width = clip.video_latent_shape
    low = base["video"]
    condition = refiner_condition(
        low,
        (frames, height, width),
        keyframes=base.get("keyframes"),
        keyframe_indices=keyframe_indices,
        source=source,
    )
    scene = Scene(text, text, frozenset({"video"}), condition, sparsity=config.sparsity)
    noise = draw_noise({"video": (1, *clip.video_latent_shape)}, generator, low.device)
    schedule = timestep_schedule(config.steps, shift)
    velocity = GuidedVelocity(refiner, scene, UNGUIDED)
    return sample(velocity, noise, schedule, solver, on_step_end)["video"]


def refined_source(
    source: Tensor, keep: Tensor, clip: ClipShape, encode_video: Encode
) -> tuple[Tensor, Tensor, VideoCondition]:
    """What is kept of a source in the refined `clip`: pixels, keep mask, and what the refiner is shown of them.

    `source` (B, 3, F, H, W) and `keep` (B, 1, F, H, W) have the refined size and the base's frame rate. A frame between
    two is blended from both, and kept where both are.
    """
    source = resample_frames(source, clip.frames)
    keep = resample_frames(keep.float(), clip.frames) > 0.999
    latents = encode_video(blank(source, keep))
    return source, keep, VideoCondition(latents, latent_keep_mask(keep, clip.video).to(latents))
