"""Prompt and media in, frames and sound out: the call that people know from diffusers.

generator = Generator.from_pretrained("checkpoints/tiny")
clip = generator("a red ball falls with a thud", seconds=2, generator=torch.Generator().manual_seed(0))
clip.frames, clip.audio  # (F, H, W, 3) uint8 and (channels, samples)

The same call in steps that may run in different places (see `model.generation`):

prepared = generator.prepare("a red ball falls with a thud", seconds=2, seed=0)
clip = generator.render(prepared)
"""

import math
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch

from model.checkpoint import saved_identity
from model.checksums import CheckpointError
from model.folder import PARTS, TRANSFORMER
from model.generation.components import Components, Placement
from model.generation.prepared import Prepared, prepare
from model.generation.prompts import Prompt
from model.generation.steps import BaseLatents, Generated, OnStep, decode, refine, sample_base
from model.generation.together import sample_together
from model.media import OutputType
from model.network.lora import Lora, load_lora, merge_lora
from model.sampling.guidance import Streams


class Generator:
    """Components on a device and the call that runs them. See `components.Placement` for `offload` and `stream`."""

    def __init__(
        self,
        components: Components,
        device: str | torch.device = "cpu",
        offload: bool = False,
        stream: bool = False,
    ) -> None:
        self.components = components
        self.placement = Placement(components, device, offload, stream)

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        offload: bool = False,
        stream: bool = False,
        lora: str | Path | None = None,
        lora_scale: float = 1.0,
        only: Collection[str] = PARTS,
    ) -> "Generator":
        """Load what `save_pretrained` wrote; `dtype` is that of the transformers.

        `lora` is the folder of an adapter that was trained on this model; `lora_scale` of it is merged in. `only` names
        the parts to load, for a process that runs one step alone: a refiner needs "refiner" and the codecs.
        """
        if not math.isfinite(lora_scale):
            raise ValueError(f"lora_scale is {lora_scale}: give a finite number")
        adapter = None if lora is None else read_adapter(directory, lora, only)  # loading may take minutes
        components = Components.load(directory, dtype, only)
        if adapter is not None and components.transformer is not None:
            merge_lora(components.transformer, adapter, lora_scale)
        return cls(components, device, offload, stream)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write a folder per component and `model_index.json`."""
        self.components.save(directory)

    def __call__(
        self,
        prompt: Prompt,
        negative_prompt: str = "",
        *,
        generator: torch.Generator | None = None,
        callback_on_step_end: OnStep | None = None,
        output_type: OutputType = "np",
        **asked: Any,
    ) -> Generated:
        """Generate one clip. Raises ValueError naming the argument that does not fit.

        Args:
            prompt: words, a structured prompt, or a list of timed shots.
            generator: the same seed gives the same bits on one device; None takes a fresh seed.
            callback_on_step_end: receives `Progress` after every step.
            asked: what else `prepare` takes: media (`image`, `video`, `mask`, `audio`, ...), `references`, `seconds`,
                `size`, `fps`, `refine`, `enhance`, `num_inference_steps` and guidance scales.
        """
        prepared = self.prepare(prompt, negative_prompt, **asked)
        return self.render(
            prepared, generator=generator, callback_on_step_end=callback_on_step_end, output_type=output_type
        )

    def prepare(self, prompt: Prompt, negative_prompt: str = "", **asked: Any) -> Prepared:
        """Check a call as a whole, without running a network; see `model.generation.prepared.prepare`.

        Warns of what lies outside of what the model was trained on.
        """
        prepared = prepare(self.components.spec, prompt, negative_prompt, **asked)
        for remark in prepared.remarks:
            warnings.warn(remark, stacklevel=2)
        return prepared

    def render(
        self,
        prepared: Prepared,
        *,
        generator: torch.Generator | None = None,
        callback_on_step_end: OnStep | None = None,
        output_type: OutputType = "np",
    ) -> Generated:
        """All steps in a row. `generator` takes the place of the seed in `prepared`."""
        generator = generator or _noise_source(prepared)
        base = self.sample_base(prepared, generator=generator, callback_on_step_end=callback_on_step_end)
        streams = base.streams
        if prepared.refined is not None:
            streams = self.refine(prepared, base, generator=generator, callback_on_step_end=callback_on_step_end)
        return self.decode(prepared, streams, output_type)

    @torch.no_grad()
    def sample_base(
        self,
        prepared: Prepared,
        *,
        generator: torch.Generator | None = None,
        callback_on_step_end: OnStep | None = None,
    ) -> BaseLatents:
        """The base's step."""
        return sample_base(self.placement, prepared, generator or _noise_source(prepared), callback_on_step_end)

    @torch.no_grad()
    def sample_together(
        self, calls: Sequence[Prepared], callbacks_on_step_end: Sequence[OnStep | None]
    ) -> list[BaseLatents | None]:
        """The base's step of calls of one `together.shape_key`, as one batch; None for one that was cancelled."""
        return sample_together(self.placement, calls, [_noise_source(call) for call in calls], callbacks_on_step_end)

    @torch.no_grad()
    def refine(
        self,
        prepared: Prepared,
        base: BaseLatents,
        *,
        generator: torch.Generator | None = None,
        callback_on_step_end: OnStep | None = None,
    ) -> Streams:
        """The refiner's step. Without `generator` the noise goes on where the base's stood."""
        return refine(self.placement, prepared, base, generator, callback_on_step_end)

    @torch.no_grad()
    def decode(self, prepared: Prepared, streams: Streams, output_type: OutputType = "np") -> Generated:
        """The last step, from either's latents."""
        return decode(self.placement, prepared, streams, output_type)


def read_adapter(directory: str | Path, lora: str | Path, parts: Collection[str] = PARTS) -> Lora:
    """The adapter, where it is one of the model in the folder. Raises CheckpointError."""
    if TRANSFORMER not in parts:
        raise ValueError(f"the adapter {lora} changes the transformer, which is not loaded here: leave the adapter out")
    adapter = load_lora(lora)
    base = saved_identity(Path(directory) / TRANSFORMER)
    if adapter.base_identity not in (None, base):
        raise CheckpointError(
            f"the adapter {lora} was trained on the transformer {adapter.base_identity}, and {directory} holds {base}: "
            "use the model that it was trained on"
        )
    return adapter


def _noise_source(prepared: Prepared) -> torch.Generator:
    generator = torch.Generator()
    if prepared.seed is None:
        generator.seed()
    else:
        generator.manual_seed(prepared.seed)
    return generator
