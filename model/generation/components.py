"""The parts of one model in memory: loaded, saved, and kept on a device while they work."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.checkpoint import load_transformer, save_transformer, stored_config, transformer_identity
from model.codecs import AudioCodec, VideoCodec
from model.codecs.loading import audio_codec_spec, load_audio_codec, load_video_codec, video_codec_spec
from model.conditioning import Reference
from model.config import GenerationConfig, TransformerConfig
from model.folder import AUDIO_CODEC, ENCODER, PARTS, REFINER, TRANSFORMER, VIDEO_CODEC, ModelIndex
from model.generation.prepared import GeneratorSpec
from model.generation.streaming import stream_layers
from model.network.mmdit import MMDiT
from model.prompt_encoder.encoder import EncoderConfig, MLLMEncoder, PromptEncoder
from model.sampling.denoiser import TextPair
from model.shapes import AudioCodecSpec, VideoCodecSpec


@dataclass(frozen=True)
class Components:
    """What generates: the transformer with its codecs and encoder, and the refiner where there is one.

    A process that runs one step alone holds the parts of that step (see `load`).
    """

    transformer: MMDiT | None
    video_codec: VideoCodec
    encoder: PromptEncoder | None
    audio_codec: AudioCodec | None = None
    refiner: MMDiT | None = None
    config: GenerationConfig = field(default_factory=GenerationConfig)

    def __post_init__(self) -> None:
        if self.transformer is None:
            return
        wanted = self.transformer.config
        found = {"video_channels": self.video_codec.spec.channels}
        if self.encoder is not None:
            found["text_width"] = self.encoder.width
        if self.audio_codec is not None:
            found["audio_channels"] = self.audio_codec.spec.channels
        for name, given in found.items():
            expected = getattr(wanted, name)
            if expected and expected != given:
                raise ValueError(f"the transformer was built for {name} = {expected}, its codec or encoder has {given}")

    @property
    def spec(self) -> GeneratorSpec:
        """What preparing a call must know of them."""
        if self.transformer is None:
            raise ValueError("the transformer was not loaded: read what it takes from the model's folder (read_spec)")
        audio = self.audio_codec.spec if self.audio_codec is not None else None
        return _spec(self.transformer.config, self.video_codec.spec, audio, self.refiner is not None, self.config)

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
    def load(
        cls, directory: str | Path, dtype: torch.dtype | None = None, only: Collection[str] = PARTS
    ) -> "Components":
        """Read what `save` wrote, or the parts named in `only`; the video codec is always one of them.

        `dtype` is that of the transformers; codecs and encoder keep theirs. Raises FileNotFoundError where a part is
        missing.
        """
        index = ModelIndex.read(directory)
        wanted = [name for name in PARTS if name in only and (name in index.parts or name in (TRANSFORMER, ENCODER))]
        folders = {name: index.part(directory, name) for name in {*wanted, VIDEO_CODEC}}

        def network(name: str) -> MMDiT | None:
            return load_transformer(folders[name], dtype=dtype).eval() if name in folders else None

        return cls(
            network(TRANSFORMER),
            load_video_codec(folders[VIDEO_CODEC]),
            MLLMEncoder.load(folders[ENCODER], index.encoder) if ENCODER in folders else None,
            load_audio_codec(folders[AUDIO_CODEC]) if AUDIO_CODEC in folders else None,
            network(REFINER),
            index.config,
        )


def read_spec(directory: str | Path) -> GeneratorSpec:
    """What preparing a call must know of the model in a folder; no weights are read."""
    index = ModelIndex.read(directory)
    transformer = stored_config(TransformerConfig, index.part(directory, TRANSFORMER))
    return spec_with(transformer, directory, index.config)


def spec_with(transformer: TransformerConfig, directory: str | Path, config: GenerationConfig) -> GeneratorSpec:
    """The same for a transformer that is not in the folder, which has codecs."""
    index = ModelIndex.read(directory)
    video = video_codec_spec(index.part(directory, VIDEO_CODEC))
    audio = audio_codec_spec(index.part(directory, AUDIO_CODEC)) if AUDIO_CODEC in index.parts else None
    return _spec(transformer, video, audio, REFINER in index.parts, config)


def _spec(
    transformer: TransformerConfig,
    video: VideoCodecSpec,
    audio: AudioCodecSpec | None,
    refines: bool,
    config: GenerationConfig,
) -> GeneratorSpec:
    pictures, sounds = bool(transformer.video_channels), bool(transformer.audio_channels)
    return GeneratorSpec(video, audio, transformer.patch, pictures, sounds, refines, config)


class Placement:
    """Keeps components on `device`; with `offload`, each one only while it works, so the largest bounds the memory.

    With `stream` the layers of the networks lie on the host, and come to the device one by one.
    """

    def __init__(
        self, components: Components, device: str | torch.device, offload: bool = False, stream: bool = False
    ) -> None:
        self.components = components
        self.device, self.offload, self.stream = torch.device(device), offload, stream
        home = torch.device("cpu") if offload else self.device
        for part in components.parts.values():
            if self._streamed(part):
                stream_layers(part, self.device)
            else:
                _move(part, home)

    @contextmanager
    def working(self, component: Any) -> Iterator[None]:
        """`component` is on the device inside."""
        if not self.offload or self._streamed(component):
            yield
            return
        _move(component, self.device)
        try:
            yield
        finally:
            _move(component, torch.device("cpu"))

    def _streamed(self, component: Any) -> bool:
        return self.stream and isinstance(component, MMDiT)

    def part(self, name: str) -> Any:
        """A component by its name. Raises ValueError where it was not loaded."""
        if name not in self.components.parts:
            raise ValueError(f"this step needs the {name}, and only {', '.join(self.components.parts)} were loaded")
        return self.components.parts[name]

    def read(self, text: str, references: Sequence[Reference]) -> TextPair:
        """(1, S, D) hidden states and their mask (1, S)."""
        encoder = self.part(ENCODER)
        with self.working(encoder):
            hidden, mask = encoder.encode(text, references)
        return hidden[None].to(self.device), mask[None].to(self.device)

    def encode_video(self, frames: Tensor) -> Tensor:
        """Pixels (B, 3, F, H, W) to latents."""
        return self._through(VIDEO_CODEC, "encode", frames)

    def decode_video(self, latents: Tensor) -> Iterator[Tensor]:
        """Latents (B, C, T, h, w) to pixels (B, 3, f, H, W), some frames after the others."""
        codec = self.part(VIDEO_CODEC)
        with self.working(codec):
            yield from codec.decode_parts(latents.to(self.device))

    def decode_whole_video(self, latents: Tensor) -> Tensor:
        """The same with all frames together, (B, 3, F, H, W)."""
        return torch.cat([*self.decode_video(latents)], 2)

    def encode_audio(self, waveform: Tensor) -> Tensor:
        """(B, channels, samples) to latents."""
        return self._through(AUDIO_CODEC, "encode", waveform)

    def decode_audio(self, latents: Tensor) -> Tensor:
        """Latents (B, Ca, L) to samples."""
        return self._through(AUDIO_CODEC, "decode", latents)

    def _through(self, name: str, way: str, values: Tensor) -> Tensor:
        codec = self.part(name)
        with self.working(codec):
            coded: Tensor = getattr(codec, way)(values.to(self.device))
        return coded


def _move(component: Any, device: torch.device) -> None:
    """Modules move; of an encoder, the MLLM inside does."""
    module = component if isinstance(component, nn.Module) else getattr(component, "model", None)
    if isinstance(module, nn.Module):
        module.to(device)
