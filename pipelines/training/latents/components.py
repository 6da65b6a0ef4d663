"""The frozen networks that a cache is made with, from a model's folder or a preset, and their identities."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from model.checksums import read_json
from model.codecs import AudioCodec, VideoCodec
from model.codecs.loading import audio_codec_of, load_audio_codec, load_video_codec, video_codec_of
from model.components import INDEX, encoder_of
from model.conditioning.references import Reference
from model.config import Preset, from_mapping
from model.encoder import EncoderConfig, MLLMEncoder, PromptEncoder
from skyreels.config import Config
from skyreels.leftovers import scratch_folder

_PROMPTS = 4096  # whose hidden states are kept in memory
_FOLDERS = ("video_codec", "audio_codec", "encoder")


class Identities(Config):
    """What made a cache: the identities of the codecs and the encoder, as they give them themselves."""

    video_codec: str
    audio_codec: str
    encoder: str


@dataclass(frozen=True)
class Encoders:
    """Codecs and encoder on one device; what they return lies on the CPU, in float32."""

    video: VideoCodec
    audio: AudioCodec
    text: PromptEncoder
    device: str = "cpu"

    @cached_property
    def identities(self) -> Identities:
        return Identities(video_codec=self.video.identity, audio_codec=self.audio.identity, encoder=self.text.identity)

    def video_latents(self, pixels: Tensor) -> Tensor:
        """(B, 3, F, H, W) in [-1, 1] -> (B, C, T, h, w)."""
        return self.video.encode(pixels.to(self.device)).float().cpu()

    def audio_latents(self, waveform: Tensor) -> Tensor:
        """(B, channels, samples) -> (B, Ca, L)."""
        return self.audio.encode(waveform.to(self.device)).float().cpu()

    def text_states(self, prompt: str, references: Sequence[Reference] = ()) -> Tensor:
        """(S, D). A prompt without references is read once, however many samples have it."""
        if references:
            return self.text.encode(prompt, references)[0].cpu()
        return self._read_once(prompt)

    @cached_property
    def _read_once(self) -> Callable[[str], Tensor]:
        return lru_cache(_PROMPTS)(lambda prompt: self.text.encode(prompt)[0].cpu())


def load_encoders(folder: str | None, preset: Preset, device: str = "cpu") -> Encoders:
    """`video_codec/`, `audio_codec/` and `encoder/` of a folder laid out as `model.components` does; what it lacks,
    and everything where no folder is given, as the preset's sections say."""
    root = Path(folder) if folder is not None else None
    found = {name: root / name for name in _FOLDERS if root is not None and (root / name).is_dir()}
    if root is not None and not found:
        raise FileNotFoundError(f"{folder} holds none of {', '.join(_FOLDERS)}: give a model's folder, or none")
    picture, sound = found.get("video_codec"), found.get("audio_codec")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a codec that no one trained is the same one in every worker
        video = load_video_codec(picture) if picture else video_codec_of(preset.section("video_codec"))
        audio = load_audio_codec(sound) if sound else audio_codec_of(preset.section("audio_codec"))
    encoders = Encoders(video, audio, _load_text(root, found.get("encoder"), preset), device)
    for part in (encoders.video, encoders.audio, getattr(encoders.text, "model", None)):
        if isinstance(part, nn.Module):
            part.to(encoders.device).eval().requires_grad_(False)
    return encoders


def _load_text(root: Path | None, folder: Path | None, preset: Preset) -> MLLMEncoder:
    section = preset.section("encoder")
    if root is None or folder is None:
        with scratch_folder("encoder") as scratch:
            return encoder_of(section, scratch)
    if (root / INDEX).is_file():
        values = read_json(root / INDEX)["encoder"]
        return MLLMEncoder.load(folder, from_mapping(EncoderConfig, values, f"{root / INDEX}: encoder"))
    if section.get("path") is None:
        return encoder_of(section, folder)
    return encoder_of({**section, "path": str(folder)}, folder)
