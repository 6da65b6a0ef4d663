"""The frozen networks that a cache is made with, from a model's folder or a preset, and their identities."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from model.codecs import AudioCodec, VideoCodec
from model.codecs.loading import audio_codec_of, load_audio_codec, load_video_codec, video_codec_of
from model.conditioning.references import Reference
from model.config import Preset
from model.folder import AUDIO_CODEC, ENCODER, FROZEN, INDEX, VIDEO_CODEC, ModelIndex, parts_in
from model.prompt_encoder.encoder import MLLMEncoder, PromptEncoder
from model.prompt_encoder.tiny_encoder import encoder_of
from skyreels.config import Config
from skyreels.leftovers import scratch_folder

_PROMPTS = 4096  # whose hidden states are kept in memory


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

    def video_pixels(self, latents: Tensor) -> Tensor:
        """(B, C, T, h, w) -> (B, 3, F, H, W) in [-1, 1]."""
        return self.video.decode(latents.to(self.device)).float().cpu()

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


def load_encoders(folder: str | None, preset: Preset, device: str = "cpu", *, sound: bool = True) -> Encoders:
    """The codecs and the encoder of a folder laid out as `model.folder` does.

    What a folder without an index lacks, and everything where no folder is given, is as the preset's sections say.
    Where no `sound` is to be encoded, so is the audio codec of a model that has none: it gives lengths alone.
    """
    root = Path(folder) if folder is not None else None
    found = {} if root is None else _parts(root, sound)
    seen, heard = found.get(VIDEO_CODEC), found.get(AUDIO_CODEC)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a codec that no one trained is the same one in every worker
        video = load_video_codec(seen) if seen else video_codec_of(preset.section("video_codec"))
        audio = load_audio_codec(heard) if heard else audio_codec_of(preset.section("audio_codec"))
    encoders = Encoders(video, audio, _load_text(root, found.get(ENCODER), preset), device)
    for part in (encoders.video, encoders.audio, getattr(encoders.text, "model", None)):
        if isinstance(part, nn.Module):
            part.to(encoders.device).eval().requires_grad_(False)
    return encoders


def _parts(root: Path, sound: bool) -> dict[str, Path]:
    """The frozen parts of a folder; where it has an index all of them, or those that silent samples need."""
    if (root / INDEX).is_file():
        index = ModelIndex.read(root)
        wanted = [name for name in FROZEN if sound or name != AUDIO_CODEC or name in index.parts]
        return {name: index.part(root, name) for name in wanted}
    found = {name: root / name for name in parts_in(root, FROZEN)}
    if not found:
        raise FileNotFoundError(f"{root} holds none of {', '.join(FROZEN)}: give a model's folder, or none")
    return found


def _load_text(root: Path | None, folder: Path | None, preset: Preset) -> MLLMEncoder:
    section = preset.section("encoder")
    if root is None or folder is None:
        with scratch_folder("encoder") as scratch:
            return encoder_of(section, scratch)
    if (root / INDEX).is_file():
        return MLLMEncoder.load(folder, ModelIndex.read(root).encoder)
    if section.get("path") is None:
        return encoder_of(section, folder)
    return encoder_of({**section, "path": str(folder)}, folder)
