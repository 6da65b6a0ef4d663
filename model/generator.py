"""Prompt and media in, frames and sound out: the call that people know from diffusers.

generator = Generator.from_pretrained("checkpoints/tiny")
clip = generator("a red ball falls with a thud", seconds=2, generator=torch.Generator().manual_seed(0))
clip.frames, clip.audio  # (F, H, W, 3) uint8 and (channels, samples)
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint import CheckpointError, saved_identity
from model.conditioning import AudioReference, Reference, check_tags
from model.config import SamplingConfig
from model.generation.components import Components, Placement
from model.generation.prompts import Shot, StructuredPrompt, prompt_seconds, render_prompt
from model.generation.requests import MediaRequest, VideoUse
from model.generation.run import Generated, Progress, Run
from model.media import Image, Mask, OutputType, Video
from model.network.lora import load_lora, merge_lora
from model.sampling.guidance import ReferenceScale


class Generator:
    """Components on a device and the call that runs them. See `components.Placement` for `offload`."""

    def __init__(self, components: Components, device: str | torch.device = "cpu", offload: bool = False) -> None:
        self.components = components
        self.placement = Placement(components, device, offload)

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        offload: bool = False,
        lora: str | Path | None = None,
        lora_scale: float = 1.0,
    ) -> "Generator":
        """Load what `save_pretrained` wrote; `dtype` is that of the transformers.

        `lora` is the folder of an adapter that was trained on this model; `lora_scale` of it is merged in.
        """
        components = Components.load(directory, dtype)
        if lora is not None:
            adapter = load_lora(lora)
            base = saved_identity(Path(directory) / "transformer")
            if adapter.base_identity not in (None, base):
                raise CheckpointError(
                    f"the adapter {lora} was trained on the transformer {adapter.base_identity}, and {directory} holds "
                    f"{base}: use the model that it was trained on"
                )
            merge_lora(components.transformer, adapter, lora_scale)
        return cls(components, device, offload)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write a folder per component and `model_index.json`."""
        self.components.save(directory)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | StructuredPrompt | Sequence[Shot],
        negative_prompt: str = "",
        *,
        image: Image | None = None,
        last_image: Image | None = None,
        keyframes: Sequence[tuple[float, Image]] = (),
        video: Video | None = None,
        video_use: VideoUse = "extend",
        mask: Mask | None = None,
        audio: Tensor | None = None,
        references: Sequence[Reference] = (),
        audio_references: Sequence[AudioReference] = (),
        sound: bool = True,
        picture: bool = True,
        seconds: float | None = None,
        size: tuple[int, int] | None = None,
        fps: float | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        audio_guidance_scale: float | None = None,
        reference_guidance_scale: ReferenceScale | None = None,
        cross_modal_guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        generator: torch.Generator | None = None,
        callback_on_step_end: Callable[[Progress], None] | None = None,
        output_type: OutputType = "np",
        refine: bool = False,
    ) -> Generated:
        """Generate one clip. Raises ValueError naming the argument that does not fit.

        Args:
            prompt: words, a structured prompt, or a list of timed shots, whose lengths then give `seconds`.
            image, last_image, keyframes: frames to pass through; keyframes are (seconds, image).
            video, video_use, mask: a source to extend, lead up to, edit or add sound to; `mask` is 1 where to generate
                anew, and pixels outside it are returned as they were.
            audio: sound (channels, samples) at the codec's rate that the picture is made for; it is returned as it is.
            references, audio_references: tagged subjects, clips and voices; the prompt must name each tag.
            sound, picture: False leaves that stream out.
            seconds: length of the whole result. size: (height, width). fps: of the base and of media given.
            num_inference_steps and guidance scales: None takes the model's default; a scale of 1 switches a term off.
            reference_guidance_scale: one for all references, or one by tag, as {"@image_1": 2.0, "@audio_1": 1.5}; the
                video of an edit is called "source". Each that is not 1 costs a pass.
            generator: the same seed gives the same bits on one device; None takes a fresh seed.
            callback_on_step_end: receives `Progress` after every step.
            refine: run the refiner: larger, and at a higher frame rate.
        """
        text = render_prompt(prompt)
        tagged = [*references, *audio_references]
        check_tags(text, tagged)
        request = MediaRequest(
            image=image,
            last_image=last_image,
            keyframes=keyframes,
            video=video,
            video_use=video_use,
            mask=mask,
            audio=audio,
            sound=sound and bool(self.components.transformer.config.audio_channels),
            picture=picture and bool(self.components.transformer.config.video_channels),
            seconds=seconds or prompt_seconds(prompt),
            size=size,
            fps=fps,
        )
        settings = _overridden(
            self.components.config.sampling,
            steps=num_inference_steps,
            guidance_scale=guidance_scale,
            audio_guidance_scale=audio_guidance_scale,
            reference_guidance_scale=reference_guidance_scale,
            cross_modal_guidance_scale=cross_modal_guidance_scale,
            guidance_rescale=guidance_rescale,
        )
        if generator is None:
            generator = torch.Generator()
            generator.seed()
        run = Run(self.components, self.placement, request, settings, generator, callback_on_step_end, refine)
        return run.finish(run.sample(text, negative_prompt, tagged), output_type)


def _overridden(settings: SamplingConfig, **given: ReferenceScale | None) -> SamplingConfig:
    """The settings with what the caller gave."""
    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return replace(settings, **values)
