"""The parts of one model and the folder they are kept in, laid out as diffusers does.

model_index.json   defaults and which components there are
transformer/  video_codec/  audio_codec/  encoder/  refiner/
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from model.checkpoint import load_transformer, save_transformer, transformer_identity
from model.checksums import read_json
from model.codecs import AudioCodec, VideoCodec
from model.codecs.loading import load_audio_codec, load_video_codec
from model.config import Preset, RefinerConfig, from_mapping
from model.encoder import EncoderConfig, MLLMEncoder, PromptEncoder
from model.guidance import ReferenceScale
from model.mmdit import MMDiT
from model.requests import Defaults
from model.sampler import Solver
from model.tiny_encoder import TINY_LIMITS, build_tiny_encoder

INDEX = "model_index.json"


@dataclass(frozen=True)
class SamplingConfig:
    """Defaults of a call. `keyframes` says that the base was trained to make high-resolution keyframes too."""

    steps: int = 50
    solver: Solver = "unipc"
    shift: float = 5.0
    guidance_scale: float = 4.0
    audio_guidance_scale: float = 3.0
    reference_guidance_scale: ReferenceScale = 1.0
    cross_modal_guidance_scale: float = 1.0
    guidance_rescale: float = 0.0
    keyframes: bool = False


@dataclass(frozen=True)
class GenerationConfig:
    """How a model is used when the caller does not say."""

    sampling: SamplingConfig = SamplingConfig()
    generation: Defaults = field(default_factory=Defaults)
    refiner: RefinerConfig = field(default_factory=RefinerConfig)

    @classmethod
    def of(cls, preset: Preset) -> "GenerationConfig":
        """From a preset's sections."""
        return cls(
            from_mapping(SamplingConfig, preset.section("sampling"), f"{preset.name}: sampling"),
            from_mapping(Defaults, preset.section("generation"), f"{preset.name}: generation"),
            preset.refiner,
        )


@dataclass(frozen=True)
class Components:
    """What generates: the transformer with its codecs and encoder, and the refiner where there is one."""

    transformer: MMDiT
    video_codec: VideoCodec
    encoder: PromptEncoder
    audio_codec: AudioCodec | None = None
    refiner: MMDiT | None = None
    config: GenerationConfig = field(default_factory=GenerationConfig)

    def __post_init__(self) -> None:
        wanted = self.transformer.config
        found = {"video_channels": self.video_codec.spec.channels, "text_width": self.encoder.width}
        if self.audio_codec is not None:
            found["audio_channels"] = self.audio_codec.spec.channels
        for name, given in found.items():
            expected = getattr(wanted, name)
            if expected and expected != given:
                raise ValueError(f"the transformer was built for {name} = {expected}, its codec or encoder has {given}")

    def identities(self) -> dict[str, str]:
        """The identity of each part as it is in memory; records of what was generated carry them."""
        parts = {"transformer": self.transformer, "refiner": self.refiner}
        found = {
            name: transformer_identity(model.config, model.state_dict())
            for name, model in parts.items()
            if model is not None
        }
        codecs = {"video_codec": self.video_codec, "audio_codec": self.audio_codec, "encoder": self.encoder}
        return found | {name: part.identity for name, part in codecs.items() if part is not None}

    def save(self, directory: str | Path) -> None:
        """Write a folder per component and the index last: a folder without it is not finished."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        present = {
            part.name: getattr(self, part.name)
            for part in dataclasses.fields(self)
            if part.name != "config" and getattr(self, part.name) is not None
        }
        for name, component in present.items():
            if isinstance(component, MMDiT):
                save_transformer(component, directory / name)
            elif hasattr(component, "save"):
                component.save(directory / name)
            else:
                raise TypeError(f"the {name}, a {type(component).__name__}, has no save: give the component itself")
        encoder = dataclasses.asdict(self.encoder.config) if isinstance(self.encoder, MLLMEncoder) else {}
        index = {"components": sorted(present), "encoder": encoder, **dataclasses.asdict(self.config)}
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n")

    @classmethod
    def load(cls, directory: str | Path, dtype: torch.dtype | None = None) -> "Components":
        """Read what `save` wrote. `dtype` is that of the transformers; codecs and encoder keep theirs."""
        directory = Path(directory)
        if not (directory / INDEX).is_file():
            raise FileNotFoundError(f"{directory / INDEX} is missing: {directory} is not the folder of a generator")
        index = read_json(directory / INDEX)
        present = index["components"]
        return cls(
            load_transformer(directory / "transformer", dtype=dtype).eval(),
            load_video_codec(directory / "video_codec"),
            MLLMEncoder.load(directory / "encoder", from_mapping(EncoderConfig, index["encoder"], f"{INDEX}: encoder")),
            load_audio_codec(directory / "audio_codec") if "audio_codec" in present else None,
            load_transformer(directory / "refiner", dtype=dtype).eval() if "refiner" in present else None,
            GenerationConfig(
                from_mapping(SamplingConfig, index["sampling"], f"{INDEX}: sampling"),
                from_mapping(Defaults, index["generation"], f"{INDEX}: generation"),
                from_mapping(RefinerConfig, index["refiner"], f"{INDEX}: refiner"),
            ),
        )


def encoder_of(section: Mapping[str, Any], directory: str | Path) -> MLLMEncoder:
    """From a preset's section: `path` is a folder or hub id; null builds the tiny encoder in `directory`.

    Other keys are `EncoderConfig`'s. A tiny encoder that is there already is loaded.
    """
    values = {key: value for key, value in section.items() if key not in ("kind", "path")}
    if section.get("path") is not None:
        return MLLMEncoder.load(section["path"], from_mapping(EncoderConfig, values, "encoder"))
    config = from_mapping(EncoderConfig, {**dataclasses.asdict(TINY_LIMITS), **values}, "encoder")
    if (Path(directory) / "config.json").is_file():
        return MLLMEncoder.load(directory, config)
    return build_tiny_encoder(directory, config=config)


class Placement:
    """Keeps components on `device`; with `offload`, each one only while it works, so the largest bounds the memory."""

    def __init__(self, components: Components, device: str | torch.device, offload: bool) -> None:
        self.device, self.offload = torch.device(device), offload
        home = torch.device("cpu") if offload else self.device
        for part in dataclasses.fields(components):
            _move(getattr(components, part.name), home)

    @contextmanager
    def working(self, component: Any) -> Iterator[None]:
        """`component` is on the device inside."""
        if not self.offload:
            yield
            return
        _move(component, self.device)
        try:
            yield
        finally:
            _move(component, torch.device("cpu"))


def _move(component: Any, device: torch.device) -> None:
    """Modules move; of an encoder, the MLLM inside does."""
    module = component if isinstance(component, nn.Module) else getattr(component, "model", None)
    if isinstance(module, nn.Module):
        module.to(device)
