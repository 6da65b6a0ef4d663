"""A prepared call in steps that hand values on: the base's latents, the refiner's, frames and sound.

Each step is a function of what it is given and of the parts it names, so base and refiner may run in processes of their
own, with `wire` between them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.conditioning import (
    AudioReference,
    Conditioning,
    Reference,
    VideoCondition,
    composite,
    edited_reference,
    encode_audio_references,
    encode_visual_references,
    tagged,
)
from model.generation.components import Placement
from model.generation.prepared import Prepared, conditioned, fitted_sound, unencoded
from model.media import OutputType, output_frames
from model.network.keyframes import keyframe_indices
from model.network.refiner import (
    enlarged_pixels,
    refined_source,
    refiner_condition,
    refiner_tiles,
    resampled_source,
)
from model.sampling.denoiser import GuidedVelocity, RunInputs, TextPair, TiledVelocity
from model.sampling.guidance import GuidanceScales, Streams
from model.sampling.sampler import StepEnd, draw_noise, sample, timestep_schedule
from model.shapes import ClipShape

UNGUIDED = GuidanceScales(video=1.0, audio=1.0)


class NotFinite(ValueError):
    """NaN or infinity came out of a network: nothing that could be shown."""


@dataclass(frozen=True)
class Progress:
    """Given to `callback_on_step_end`, which may raise `sampler.Cancelled` to stop.

    `progress` runs from 0 to 1 over both stages, "base" and "refine". `preview()` decodes the picture as it stands:
    (F, H, W, 3) uint8, or None where only sound is made.
    """

    stage: str
    step: StepEnd
    progress: float
    preview: Callable[[], Any]


OnStep = Callable[[Progress], None]


@dataclass(frozen=True)
class BaseLatents:
    """What the base made, for the refiner or a decoder, here or elsewhere.

    `streams` are latents (1, ...) of video, audio and keyframes, given ones included; `prompt` is the text as the
    encoder read it; `random_state` is that of the noise, which the refiner draws from further.
    """

    streams: Streams
    prompt: TextPair
    random_state: Tensor


@dataclass(frozen=True)
class Generated:
    """`frames` as `output_type` says, None for sound alone; `audio` (channels, samples) in [-1, 1], None if silent.

    With output_type "stream" frames are an iterator of (H, W, 3) uint8 that decodes as it is asked, once. With "latent"
    they are normalised latents (1, C, T, H, W) and (1, C, L). `clip` tells size and rates.
    """

    frames: Any
    audio: Tensor | None
    clip: ClipShape


def sample_base(
    parts: Placement, prepared: Prepared, generator: torch.Generator, on_step_end: OnStep | None = None
) -> BaseLatents:
    """Latents of all streams. Needs transformer, encoder and codecs. Raises NotFinite."""
    conditioning = conditioned(prepared.media, prepared.clip, parts.encode_video, parts.encode_audio)
    run = run_inputs(parts, prepared, conditioning)
    settings, transformer = prepared.settings, parts.part("transformer")
    with parts.working(transformer):
        made = sample(
            GuidedVelocity(transformer, run, prepared.scales),
            draw_noise(noise_shapes(prepared.clip, run), generator, parts.device),
            timestep_schedule(settings.steps, settings.shift),
            settings.solver,
            watched(parts, prepared, "base", on_step_end),
        )
    return BaseLatents({**run.given, **made}, run.prompt, generator.get_state())


def refine(
    parts: Placement,
    prepared: Prepared,
    base: BaseLatents,
    generator: torch.Generator | None = None,
    on_step_end: OnStep | None = None,
) -> Streams:
    """The base's streams with the refined video, (1, C, T, H, W) of `prepared.refined`, without guidance.

    Needs refiner and video codec alone. The noise goes on where the base's stood. Raises NotFinite.
    """
    clip, refiner, config = prepared.refined, parts.part("refiner"), parts.components.config.refiner
    if clip is None:
        raise ValueError("the call was prepared without refine=True: there is nothing to refine it to")
    if generator is None:
        generator = torch.Generator()
        generator.set_state(base.random_state)
    kept, shown = unencoded(prepared.media, prepared.large), None
    if kept.source is not None and kept.source_keep is not None:
        _, _, shown = refined_source(kept.source, kept.source_keep, clip, parts.encode_video)
    streams = {name: latents.to(parts.device) for name, latents in base.streams.items()}
    text = (base.prompt[0].to(parts.device), base.prompt[1].to(parts.device))
    low = streams["video"]
    condition = refiner_condition(
        low,
        clip.video_latent_shape[1:],
        enlarged=enlarged_pixels(low, clip, parts.decode_whole_video, parts.encode_video)
        if config.enlarges == "pixels"
        else None,
        keyframes=streams.get("keyframes"),
        keyframe_indices=_keyframe_indices(parts, prepared.clip) if "keyframes" in streams else (),
        source=shown,
    )
    run = RunInputs(text, text, frozenset({"video"}), condition, sparsity=config.sparsity)
    tiles = refiner_tiles(refiner.config, config, clip)
    with parts.working(refiner):
        made = sample(
            GuidedVelocity(refiner, run, UNGUIDED)
            if tiles.count == 1
            else TiledVelocity(refiner, run, UNGUIDED, tiles),
            draw_noise({"video": (1, *clip.video_latent_shape)}, generator, low.device),
            timestep_schedule(config.steps, config.shift),
            prepared.settings.solver,
            watched(parts, prepared, "refine", on_step_end),
        )
    return {**streams, **made}


def decode(parts: Placement, prepared: Prepared, streams: Streams, output_type: OutputType = "np") -> Generated:
    """Decode, put kept pixels back, and cut the sound to the picture's length. Needs the codecs. Raises NotFinite."""
    clip = prepared.refined or prepared.clip
    video, audio = streams.get("video"), streams.get("audio")
    if output_type == "latent":
        return Generated(video, audio, clip)
    frames = sound = None
    if video is not None:
        frames = _frames(_pixels(parts, prepared, clip, video), output_type)
    if prepared.media.audio is not None:
        sound = fitted_sound(prepared.media.audio, clip)[0]
    elif audio is not None and clip.audio is not None:
        waveform = _finite(parts, "the decoded sound", parts.decode_audio(audio))[0]
        sound = F.pad(waveform, (0, max(0, clip.audio_samples - waveform.shape[-1])))[..., : clip.audio_samples].cpu()
    return Generated(frames, sound, clip)


def run_inputs(parts: Placement, prepared: Prepared, conditioning: Conditioning) -> RunInputs:
    """What stays the same at every step of the base, of one sample."""
    clip, text, read = prepared.clip, prepared.prompt, list(prepared.references)
    if conditioning.edited is not None:
        read.insert(0, edited_reference(conditioning.edited[0], prepared.references))
        text = tagged(text, read[0])
    prompt, negative = parts.read(text, read), parts.read(prepared.negative_prompt, ())
    visual, heard = _encoded_references(parts, prepared.references, clip, conditioning)
    run = RunInputs(
        prompt,
        negative,
        conditioning.generates,
        conditioning.condition,
        dict(conditioning.given),
        visual,
        heard,
        clip.audio_time_scale if clip.audio else 0.0,
    )
    if prepared.refined is None or not prepared.settings.keyframes:
        return run
    large = conditioned(prepared.media, prepared.large, parts.encode_video, parts.encode_audio).condition
    if large is None:
        return run
    indices = list(_keyframe_indices(parts, clip))
    return replace(
        run,
        generates=run.generates | {"keyframes"},
        keyframe_condition=VideoCondition(large.latents[:, :, indices], large.keep_mask[:, :, indices]),
        keyframe_indices=tuple(indices),
    )


def _encoded_references(
    parts: Placement, references: Sequence[Reference], clip: ClipShape, conditioning: Conditioning
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Latents by tag: of what is seen and of what is heard."""
    visual, heard = {}, {}
    for reference in references:
        if isinstance(reference, AudioReference):
            if clip.audio:
                heard[reference.tag] = encode_audio_references([reference], clip.audio, parts.encode_audio)[0]
        elif conditioning.condition:
            visual[reference.tag] = encode_visual_references([reference], clip, parts.encode_video)[0]
    return visual, heard


def _keyframe_indices(parts: Placement, clip: ClipShape) -> tuple[int, ...]:
    return tuple(keyframe_indices(clip.latent_frames, parts.components.config.refiner.keyframe_spacing))


def noise_shapes(clip: ClipShape, run: RunInputs) -> dict[str, tuple[int, ...]]:
    """(1, ...) of each stream that is generated."""
    shapes: dict[str, tuple[int, ...]] = {}
    if "video" in run.generates:
        shapes["video"] = (1, *clip.video_latent_shape)
    if "audio" in run.generates:
        shapes["audio"] = (1, *clip.audio_latent_shape)
    if run.keyframe_condition is not None:
        shapes["keyframes"] = (1, *run.keyframe_condition.latents.shape[1:])
    return shapes


def watched(parts: Placement, prepared: Prepared, stage: str, callback: OnStep | None) -> Callable[[StepEnd], None]:
    """Called after every step: an error where latents are no numbers, else progress to the caller."""
    refiner_steps = parts.components.config.refiner.steps if prepared.refined is not None else 0
    before = prepared.settings.steps if stage == "refine" else 0
    clip = prepared.refined if stage == "refine" and prepared.refined is not None else prepared.clip

    def report(step: StepEnd) -> None:
        for name, latents in step.latents.items():
            _finite(parts, f"the {name} after step {step.index + 1} of {step.count} of the {stage} stage", latents)
        if callback is None:
            return

        def preview() -> Any:
            clean = step.clean.get("video")
            return None if clean is None else _frames(_pixels(parts, prepared, clip, clean), "np")

        done = before + step.index + 1
        callback(Progress(stage, step, done / (prepared.settings.steps + refiner_steps), preview))

    return report


def _frames(pixels: Iterator[Tensor], output_type: OutputType) -> Any:
    """All frames as `output_type` says; as floats they are together where tensors are asked for, and nowhere else."""
    if output_type == "stream":
        return (frame for part in pixels for frame in output_frames(part[0], "np"))
    if output_type == "pt":
        return torch.cat([part[0] for part in pixels], 1)
    made = [output_frames(part[0], output_type) for part in pixels]
    return np.concatenate(made) if output_type == "np" else [frame for part in made for frame in part]


def _pixels(parts: Placement, prepared: Prepared, clip: ClipShape, latents: Tensor) -> Iterator[Tensor]:
    """Decoded frames (1, 3, f, H, W), some after the others, with the source's own pixels where they are kept."""
    refined = clip == prepared.refined
    kept = unencoded(prepared.media, prepared.large if refined else clip)
    source, keep = kept.source, kept.source_keep
    if refined and source is not None and keep is not None:
        source, keep = resampled_source(source, keep, clip)
    done = 0
    for part in parts.decode_video(latents):
        frames, count = _finite(parts, "the decoded picture", part), part.shape[2]
        if source is not None and keep is not None:
            own = source.narrow(2, done, count).to(frames)
            frames = composite(frames, own, keep.narrow(2, done, count).to(frames.device))
        done += count
        yield frames


def _finite(parts: Placement, what: str, values: Tensor) -> Tensor:
    """The values; NotFinite with the weights that are to blame, where some are."""
    if bool(values.isfinite().all()):
        return values
    damaged = [
        f"{name}/{key}"
        for name, part in parts.components.parts.items()
        if isinstance(module := getattr(part, "model", part), nn.Module)
        for key, value in module.state_dict().items()
        if value.is_floating_point() and not bool(value.isfinite().all())
    ]
    if damaged:
        cause = f"{len(damaged)} weights of the model do, such as {damaged[0]}: take another checkpoint"
    else:
        cause = "the weights are finite: lower the guidance scales, or give --dtype fp32 (dtype=torch.float32)"
    raise NotFinite(f"{what} holds NaN or infinite values, and {cause}")
