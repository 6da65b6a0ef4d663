"""Samples of prompts that somebody wrote, by the network that trains: the generator's own call, on prepared calls.

A file holds each call, prepared where the run was started; codecs and encoder are read for the time of the sampling.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import nn

from model.folder import FROZEN
from model.generation.components import Components
from model.generation.prepared import Prepared
from model.generation.steps import BaseLatents, NotFinite
from model.generation.wire import from_bytes
from model.generator import Generator
from model.media import output_frames
from model.network.inputs import JointInputs, JointOutputs
from model.network.mmdit import MMDiT
from pipelines.training.learners.preview import write_media

PREFIX = "asked-"
"""How files of such samples begin, so that they are told from samples of the data."""
SUFFIX = ".safetensors"
_STRIP = 6  # frames of a clip in its strip


@dataclass(frozen=True)
class ForwardOnly:
    """A network that trains as samplers take one: asked by whole forward passes, as ZeRO-3 wants, and never moved."""

    network: nn.Module

    @property
    def config(self) -> Any:
        return self.network.config

    def cache(self, inputs: JointInputs) -> None:
        """Nothing is kept over steps: what is kept is computed apart from the forward pass."""

    def __call__(self, inputs: JointInputs, cache: None = None) -> JointOutputs:
        made: JointOutputs = self.network(inputs)
        return made


def write_asked(module: nn.Module, prompts: str | Path, components: str | Path, folder: Path | None) -> None:
    """A file per prepared call in `prompts`, the same noise at every step; all ranks call it and forward alike.

    `folder` is None on all ranks but the first. Of a clip there is also a strip of frames, as PNG.
    """
    device = next(module.parameters()).device
    parts = Components.load(components, only=FROZEN)
    generator = Generator(dataclasses.replace(parts, transformer=cast(MMDiT, ForwardOnly(module))), device)
    for file in sorted(Path(prompts).glob(f"*{SUFFIX}")):
        prepared = from_bytes(Prepared, file.read_bytes())
        name = f"{PREFIX}{file.name.removesuffix(SUFFIX)}"
        try:
            base = generator.sample_base(prepared)
            if folder is not None:
                _write(generator, prepared, base, folder / name)
        except NotFinite as error:  # the same on all ranks; training has guards of its own
            if folder is not None:
                (folder / f"{name}.txt").write_text(f"{error}\n")


def _write(generator: Generator, prepared: Prepared, base: BaseLatents, path: Path) -> None:
    with torch.autocast(generator.placement.device.type, enabled=False):
        streams = {name: latents.float() for name, latents in base.streams.items()}
        made = generator.decode(prepared, streams, "pt")
    rate = 0 if made.clip.audio is None else made.clip.audio.sample_rate
    write_media(path, made.frames, made.audio, made.clip.fps, rate)
    if made.frames is not None and made.frames.shape[1] > 1:
        frames = output_frames(made.frames, "np")
        chosen = frames[np.linspace(0, len(frames) - 1, _STRIP).round().astype(int)]
        Image.fromarray(np.concatenate(list(chosen), axis=1)).save(path.with_name(f"{path.name}.png"))
