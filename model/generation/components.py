"""The parts of one model in memory: loaded, saved, and kept on a device while they work."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from model.checkpoint import load_transformer, save_transformer, transformer_identity
from model.codecs import AudioCodec, VideoCodec
from model.codecs.loading import load_audio_codec, load_video_codec
from model.config import GenerationConfig
from model.folder import AUDIO_CODEC, ENCODER, PARTS, REFINER, TRANSFORMER, VIDEO_CODEC, ModelIndex
from model.network.mmdit import MMDiT
from model.prompt_encoder.encoder import EncoderConfig, MLLMEncoder, PromptEncoder


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

    @property
    def parts(self) -> dict[str, Any]:
        """Those that there are, by their names in a folder."""
        return {name: getattr(self, name) for name in PARTS if getattr(self, name) is not None}

    def identities(self) -> dict[str, str]:
        """The identity of each part as it is in memory; records of what was generated carry them."""
        return {
            name: transformer_identity(part.config, part.state_dict()) if isinstance(part, MMDiT) else part.identity
            for name, part in self.parts.items()
        }

    def save(self, directory: str | Path) -> None:
        """Write a folder per part and the index last."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, part in self.parts.items():
            if isinstance(part, MMDiT):
                save_transformer(part, directory / name)
            elif hasattr(part, "save"):
                part.save(directory / name)
            else:
                raise TypeError(f"the {name}, a {type(part).__name__}, has no save: give the component itself")
        encoder = self.encoder.config if isinstance(self.encoder, MLLMEncoder) else EncoderConfig()
        ModelIndex(tuple(self.parts), self.config, encoder).write(directory)

    @classmethod
    def load(cls, directory: str | Path, dtype: torch.dtype | None = None) -> "Components":
        """Read what `save` wrote. `dtype` is that of the transformers; codecs and encoder keep theirs."""
        index = ModelIndex.read(directory)
        folders = {name: index.part(directory, name) for name in (*index.parts, TRANSFORMER, VIDEO_CODEC, ENCODER)}
        return cls(
            load_transformer(folders[TRANSFORMER], dtype=dtype).eval(),
            load_video_codec(folders[VIDEO_CODEC]),
            MLLMEncoder.load(folders[ENCODER], index.encoder),
            load_audio_codec(folders[AUDIO_CODEC]) if AUDIO_CODEC in folders else None,
            load_transformer(folders[REFINER], dtype=dtype).eval() if REFINER in folders else None,
            index.config,
        )


class Placement:
    """Keeps components on `device`; with `offload`, each one only while it works, so the largest bounds the memory."""

    def __init__(self, components: Components, device: str | torch.device, offload: bool) -> None:
        self.device, self.offload = torch.device(device), offload
        home = torch.device("cpu") if offload else self.device
        for part in components.parts.values():
            _move(part, home)

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
