"""One call of the generator: its clip and task, the base's pass, the refiner's, and what comes out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.conditioning import (
    AudioReference,
    Conditioning,
    Reference,
    VideoCondition,
    edited_reference,
    encode_audio_references,
    encode_visual_references,
    tagged,
)
from model.config import SamplingConfig
from model.generation.components import Components, Placement
from model.generation.compositing import composite
from model.generation.refining import refine_latents, refined_source
from model.generation.requests import MediaRequest, fitted_sound, plan
from model.media import OutputType, output_frames
from model.network.keyframes import keyframe_indices
from model.network.refiner import refined_clip
from model.sampling.denoiser import GuidedVelocity, Scene, TextPair
from model.sampling.guidance import GuidanceScales, Streams
from model.sampling.sampler import StepEnd, draw_noise, sample, timestep_schedule
from model.shapes import ClipShape

EDITED = "source"
"""What stands for a tag where the task itself brings a reference, the video to edit: it too can have a scale."""


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


@dataclass(frozen=True)
class Generated:
    """`frames` as `output_type` says, None for sound alone; `audio` (channels, samples) in [-1, 1], None if silent.

    With output_type "latent" they are normalised latents (1, C, T, H, W) and (1, C, L). `clip` tells size and rates.
    """

    frames: Any
    audio: Tensor | None
    clip: ClipShape


class Run:
    """One call: its clip and task, the base's pass, the refiner's, and what comes out."""

    def __init__(
        self,
        components: Components,
        placement: Placement,
        request: MediaRequest,
        settings: SamplingConfig,
        generator: torch.Generator,
        callback: Callable[[Progress], None] | None,
        refine: bool,
    ) -> None:
        self.parts, self.placement = components, placement
        self.request, self.settings, self.generator, self.callback = request, settings, generator, callback
        self.refines = refine
        self.clip, self.conditioning = self._plan(request)
        self.source, self.keep = self.conditioning.source, self.conditioning.source_keep
        self.refiner_steps = 0
        if refine:
            if components.refiner is None:
                raise ValueError("refine=True, but this model has no refiner")
            if "video" not in self.conditioning.generates:
                raise ValueError("refine=True, but no picture is generated that could be refined")
            self.refiner_steps = components.config.refiner.steps
            self.refined = refined_clip(self.clip, components.config.refiner)
            # The same task at the refined size: what keyframes and refiner are shown of images and kept source.
            large = replace(request, size=(self.refined.height, self.refined.width))
            self.large = self._plan(large)[1]

    def sample(self, text: str, negative: str, references: Sequence[Reference]) -> Streams:
        """Latents of all streams, given ones included."""
        read = list(references)
        if self.conditioning.edited is not None:
            read.insert(0, edited_reference(self.conditioning.edited[0], references))
            text = tagged(text, read[0])
        scene = self._scene(self._embed(text, read), self._embed(negative, ()), references)
        settings = self.settings
        scales = GuidanceScales(
            settings.guidance_scale,
            settings.audio_guidance_scale,
            settings.reference_guidance_scale,
            settings.cross_modal_guidance_scale,
            settings.guidance_rescale,
        )
        with self.placement.working(self.parts.transformer):
            velocity = GuidedVelocity(self.parts.transformer, scene, scales)
            made = sample(
                velocity,
                draw_noise(self._noise_shapes(scene), self.generator, self.placement.device),
                timestep_schedule(settings.steps, settings.shift),
                settings.solver,
                self._report("base", 0),
            )
        streams = {**(scene.given or {}), **made}
        if self.refines:
            streams["video"] = self._refine(streams, scene)
        return streams

    def finish(self, streams: Streams, output_type: OutputType) -> Generated:
        """Decode, put kept pixels back, and cut the sound to the picture's length."""
        video, audio = streams.get("video"), streams.get("audio")
        if output_type == "latent":
            return Generated(video, audio, self.clip)
        frames = sound = None
        if video is not None:
            frames = output_frames(self._pixels(video)[0], output_type)
        if self.request.audio is not None:
            sound = fitted_sound(self.request.audio, self.clip)[0]
        elif audio is not None and self.parts.audio_codec is not None:
            with self.placement.working(self.parts.audio_codec):
                waveform = self.parts.audio_codec.decode(audio)[0]
            samples = self.clip.audio_samples
            sound = F.pad(waveform, (0, max(0, samples - waveform.shape[-1])))[..., :samples].cpu()
        return Generated(frames, sound, self.clip)

    def _plan(self, request: MediaRequest) -> tuple[ClipShape, Conditioning]:
        parts = self.parts
        patch = parts.transformer.config.patch[1:]
        clip, task = plan(request, parts.config.generation, parts.video_codec, parts.audio_codec, patch)
        conditioning = task.prepare(clip, self._encode_video, self._encode_audio)
        if request.audio is None:
            return clip, conditioning
        given = {**conditioning.given, "audio": self._encode_audio(fitted_sound(request.audio, clip))}
        return clip, replace(conditioning, generates=conditioning.generates - {"audio"}, given=given)

    def _scene(self, prompt: TextPair, negative: TextPair, references: Sequence[Reference]) -> Scene:
        clip, conditioning = self.clip, self.conditioning
        visual = {EDITED: torch.cat(conditioning.references, 2)} if conditioning.references else {}
        heard = {}
        for reference in references:
            if isinstance(reference, AudioReference):
                if clip.audio:
                    heard[reference.tag] = encode_audio_references([reference], clip.audio, self._encode_audio)[0]
            elif conditioning.condition:
                visual[reference.tag] = encode_visual_references([reference], clip, self._encode_video)[0]
        scene = Scene(
            prompt,
            negative,
            conditioning.generates,
            conditioning.condition,
            dict(conditioning.given),
            visual,
            heard,
            clip.audio_time_scale if clip.audio else 0.0,
        )
        if not (self.refines and self.settings.keyframes and self.large.condition):
            return scene
        indices = list(keyframe_indices(clip.latent_frames, self.parts.config.refiner.keyframe_spacing))
        large = self.large.condition
        return replace(
            scene,
            generates=scene.generates | {"keyframes"},
            keyframe_condition=VideoCondition(large.latents[:, :, indices], large.keep_mask[:, :, indices]),
            keyframe_indices=tuple(indices),
        )

    def _refine(self, streams: Streams, scene: Scene) -> Tensor:
        """The refined video latents; from here on the run's clip and source are the refined ones."""
        refiner = self.parts.refiner
        assert refiner is not None
        shown = None
        if self.large.source is not None and self.large.source_keep is not None:
            self.source, self.keep, shown = refined_source(
                self.large.source, self.large.source_keep, self.refined, self._encode_video
            )
        self.clip = self.refined
        with self.placement.working(refiner):
            return refine_latents(
                refiner,
                self.parts.config.refiner,
                streams,
                self.refined,
                scene.prompt,
                self.generator,
                keyframe_indices=scene.keyframe_indices,
                source=shown,
                solver=self.settings.solver,
                shift=self.settings.shift,
                on_step_end=self._report("refine", self.settings.steps),
            )

    def _noise_shapes(self, scene: Scene) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        if "video" in scene.generates:
            shapes["video"] = (1, *self.clip.video_latent_shape)
        if "audio" in scene.generates:
            shapes["audio"] = (1, *self.clip.audio_latent_shape)
        if scene.keyframe_condition is not None:
            latents = scene.keyframe_condition.latents
            shapes["keyframes"] = (1, *latents.shape[1:])
        return shapes

    def _report(self, stage: str, before: int) -> Callable[[StepEnd], None] | None:
        callback, total = self.callback, self.settings.steps + self.refiner_steps
        if callback is None:
            return None

        def report(step: StepEnd) -> None:
            def preview() -> Any:
                clean = step.clean.get("video")
                return None if clean is None else output_frames(self._pixels(clean)[0], "np")

            callback(Progress(stage, step, (before + step.index + 1) / total, preview))

        return report

    def _pixels(self, latents: Tensor) -> Tensor:
        with self.placement.working(self.parts.video_codec):
            frames = self.parts.video_codec.decode(latents)
        if self.source is None or self.keep is None:
            return frames
        return composite(frames, self.source.to(frames), self.keep.to(frames.device))

    def _embed(self, text: str, references: Sequence[Reference]) -> TextPair:
        with self.placement.working(self.parts.encoder):
            hidden, mask = self.parts.encoder.encode(text, references)
        return hidden[None].to(self.placement.device), mask[None].to(self.placement.device)

    def _encode_video(self, frames: Tensor) -> Tensor:
        with self.placement.working(self.parts.video_codec):
            return self.parts.video_codec.encode(frames.to(self.placement.device))

    def _encode_audio(self, waveform: Tensor) -> Tensor:
        if self.parts.audio_codec is None:
            raise ValueError("sound was given, but this model has no audio codec")
        with self.placement.working(self.parts.audio_codec):
            return self.parts.audio_codec.encode(waveform.to(self.placement.device))
