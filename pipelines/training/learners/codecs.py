"""The first stage: light codecs learn from raw clips, codecs that come with weights are measured.

Both codecs are one module and learn in every step, so all ranks call the same submodules. What later stages share,
codecs with the statistics of their latents and the encoder, then stands in one folder of components.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from model.codecs import AudioCodec, VideoCodec
from model.codecs.latents import measure_latents
from model.codecs.loading import audio_codec_of, video_codec_of
from model.codecs.tiny_audio import TinyAudioCodec
from model.codecs.tiny_video import TinyVideoCodec
from model.codecs.training import audio_codec_loss, video_codec_loss
from model.config import GenerationConfig, Preset
from model.folder import AUDIO_CODEC, ENCODER, FROZEN, VIDEO_CODEC, ModelIndex
from model.prompt_encoder.tiny_encoder import encoder_of
from pipelines.training.curriculum.resolve import Stage
from pipelines.training.data.datasets import Datasets, open_together
from pipelines.training.data.held_out import chosen_of
from pipelines.training.data.windows import RandomWindows
from pipelines.training.latents.spec import sides
from pipelines.training.learners.perception import teach
from pipelines.training.learners.preview import write_media
from pipelines.training.stages.export import published
from skyreels.training.trainable import Slot, StepLoss

TinyCodec = TinyVideoCodec | TinyAudioCodec

TRAINABLE = {"video": "tiny_video", "audio": "tiny_audio"}
"""Kinds of codecs that learn here; others come with weights."""

DISTINCT_STEPS = 32
"""Batches that are decoded from files and kept; then they come again, with other noise on their latents. Decoding
costs as much as learning from what was decoded, and light codecs need many steps rather than many clips."""

SOUNDS_PER_CLIP = 2
"""Windows of sound for every window of a clip: they cost a quarter."""

LESSONS_PER_STEP = 4
"""Steps of the tiny encoder's eyes and ears for every step of the codecs, which cost several times as much."""

COMPARED = 4
"""Batches that weights are compared on."""

MEASURED = 64
"""Windows that latent statistics are measured on."""


@dataclass(frozen=True)
class CodecBatch:
    """Implements `skyreels.training.trainable.Batch`."""

    frames: Tensor
    """(B, 3, F, H, W) in [-1, 1]."""
    waveform: Tensor
    """(B', channels, samples) in [-1, 1]."""
    seed: int
    """Of the noise that is added to latents."""
    keys: Sequence[str]
    skipped: Sequence[str]
    tokens: int
    """As a transformer would count them."""
    flops: float = 0.0
    """Not counted: codecs are convolutions of many sizes."""

    def to(self, device: torch.device) -> "CodecBatch":
        """The same on `device`."""
        return dataclasses.replace(self, frames=self.frames.to(device), waveform=self.waveform.to(device))


def codecs_learn(preset: Preset) -> bool:
    """Whether the preset has a codec that is trained here, rather than loaded with its weights."""
    return any(preset.section(f"{name}_codec")["kind"] == kind for name, kind in TRAINABLE.items())


@dataclass(eq=False)
class CodecStage:
    """Implements `skyreels.training.trainable.Trainable` for the codecs of a preset that learn."""

    stage: Stage
    datasets: Datasets

    @property
    def slots(self) -> int:
        return self.stage.recipe.slots

    @property
    def steps(self) -> int:
        """As many as the recipe sets, or as its epochs of the dataset's clips make."""
        clips = sum(clip.kind == "video" for clip in self._windows.dataset.clips)
        return self.stage.steps or math.ceil(self.stage.recipe.epochs * clips / (self.slots * self._count))

    def build(self) -> nn.Module:
        module = nn.ModuleDict(_learning(self.stage.preset))
        if not module:
            raise ValueError(f"preset {self.stage.preset.name} has no codec that learns: call finish_codecs alone")
        return module

    def initial_weights(self) -> Mapping[str, Tensor]:
        return {}

    def batch(self, slot: Slot) -> CodecBatch:
        seed = np.random.SeedSequence((self.stage.recipe.seed, slot.step, slot.index)).generate_state(1, np.uint64)
        return dataclasses.replace(self._decoded(slot.step % DISTINCT_STEPS, slot.index), seed=int(seed[0]))

    def loss(self, module: nn.Module, batch: CodecBatch) -> StepLoss:
        generator = torch.Generator().manual_seed(batch.seed)
        losses = {}
        for name, codec in _named(module):
            if isinstance(codec, TinyVideoCodec):
                losses[name] = video_codec_loss(codec, batch.frames, generator=generator)
            else:
                losses[name] = audio_codec_loss(codec, batch.waveform, generator=generator)
        sums = {f"loss/codecs/{name}": (loss.detach(), 1.0) for name, loss in losses.items()}
        return StepLoss(torch.stack(list(losses.values())).sum(), sums)

    def held_out(self) -> list[CodecBatch]:
        """Windows of clips that no slot holds; of the clips it learns from, where there are few."""
        return [self._window_batch(self._held_out, step, 0) for step in range(COMPARED)]

    def write_samples(self, module: nn.Module, step: int, folder: Path | None) -> None:
        """One clip and its sound through the codecs and back."""
        batch = self._decoded(0, 0)
        device = next(module.parameters()).device
        given = {"video": batch.frames[:1].to(device), "audio": batch.waveform[:1].to(device)}
        back = {name: codec.decode(codec.encode(given[name])).cpu() for name, codec in _named(module)}
        if folder is not None:
            pixels, sound = (back[name][0] if name in back else None for name in ("video", "audio"))
            write_media(folder / "codecs", pixels, sound, self._windows.fps, self._windows.sample_rate)

    @lru_cache(maxsize=2 * DISTINCT_STEPS)  # noqa: B019 (a worker holds one stage, as long as it lives)
    def _decoded(self, step: int, index: int) -> CodecBatch:
        return self._window_batch(self._windows, step, index)

    def _window_batch(self, windows: RandomWindows, step: int, index: int) -> CodecBatch:
        hop = self.stage.preset.audio.hop
        samples = self._latents * hop
        seen = windows.pixels(step, index, self._count)
        heard = windows.sounds(step, index, SOUNDS_PER_CLIP * self._count, samples)
        return CodecBatch(
            frames=seen.values,
            waveform=heard.values,
            seed=0,
            keys=(*seen.keys, *heard.keys),
            skipped=(*seen.skipped, *heard.skipped),
            tokens=self._count * (self._tokens + SOUNDS_PER_CLIP * self._latents),
        )

    @property
    def _count(self) -> int:
        """Clips in a slot: as many as would be `tokens_per_slot` tokens to a transformer."""
        return max(1, self.stage.recipe.tokens_per_slot // self._tokens)

    @cached_property
    def _windows(self) -> RandomWindows:
        return self._of_clips(lambda key: key not in self._held)

    @cached_property
    def _held_out(self) -> RandomWindows:
        return self._of_clips(lambda key: key in self._held)

    def _of_clips(self, wanted: Callable[[str], bool]) -> RandomWindows:
        """Windows of the clips whose keys are wanted; of all, where none are held out."""
        whole = self._all_windows
        if not self._held:
            return whole
        clips = tuple(clip for clip in whole.dataset.clips if wanted(clip.key))
        return dataclasses.replace(whole, dataset=dataclasses.replace(whole.dataset, clips=clips))

    @cached_property
    def _held(self) -> frozenset[str]:
        """Keys of the clips that are held out: such as are both seen and heard for the length of a window."""
        windows = self._all_windows
        whole_s = windows.frames / windows.fps
        full = (
            clip
            for clip in windows.dataset.clips
            if clip.kind == "video" and clip.has_audio and clip.seconds >= whole_s
        )
        return frozenset(chosen_of(clip.key for clip in full))

    @cached_property
    def _all_windows(self) -> RandomWindows:
        return codec_windows(self.stage, self.datasets)

    @property
    def _tokens(self) -> int:
        """Of a window's frames."""
        preset, windows = self.stage.preset, self._windows
        edges = (a * b for a, b in zip(preset.video.stride[1:], preset.transformer.patch[1:], strict=True))
        rows, columns = (side // edge for side, edge in zip((windows.height, windows.width), edges, strict=True))
        return preset.video.latent_frames(windows.frames) * rows * columns

    @property
    def _latents(self) -> int:
        """Of a window's sound, which lasts as long as its frames."""
        audio, windows = self.stage.preset.audio, self._windows
        return audio.latent_length(round(windows.frames / windows.fps * audio.sample_rate))


def codec_windows(stage: Stage, datasets: Datasets) -> RandomWindows:
    """Square windows at the stage's largest size and shortest length."""
    preset, recipe = stage.preset, stage.recipe
    multiple = preset.video.stride[1] * preset.transformer.patch[1]
    height, width = sides(max(stage.sizes), 1.0, multiple)
    return RandomWindows(
        open_together(datasets),
        height,
        width,
        preset.video.nearest_frames(min(stage.lengths) * recipe.fps),
        recipe.fps,
        preset.audio.sample_rate,
        preset.audio.stereo,
        recipe.seed,
    )


def finish_codecs(weights: Mapping[str, Tensor], stage: Stage, datasets: Datasets, out: str | Path) -> Path:
    """Write the codecs, the encoder and their index (`model.folder`), all at once. A tiny encoder is taught first.

    `weights` are those that `CodecStage` trained; none where the preset's codecs come with theirs. The statistics of
    latents are measured on the datasets in any case.
    """
    preset = stage.preset
    learned = _learning(preset)
    nn.ModuleDict(learned).eval().load_state_dict({name: weights[name] for name in weights})
    video = learned.get("video") or video_codec_of(preset.section("video_codec"))
    audio = learned.get("audio") or audio_codec_of(preset.section("audio_codec"))
    windows = codec_windows(stage, datasets)
    samples = round(windows.frames / windows.fps * preset.audio.sample_rate)
    clips = (windows.pixels(step, 0, 1).values for step in range(MEASURED))
    sounds = (windows.sounds(step, 0, 1, samples).values for step in range(MEASURED))
    with published(Path(out)) as folder, torch.no_grad():
        for part, codec, media in ((VIDEO_CODEC, video, clips), (AUDIO_CODEC, audio, sounds)):
            codec.norm.set(measure_latents(_unnormalised(codec), media))
            codec.save(folder / part)
        encoder = encoder_of(preset.section("encoder"), folder / ENCODER)
        if not (folder / ENCODER).is_dir():  # loaded from elsewhere
            encoder.save(folder / ENCODER)
        elif learned:  # made here, and so are the codecs
            teach(encoder, windows, LESSONS_PER_STEP * CodecStage(stage, datasets).steps)
            encoder.save(folder / ENCODER)
        ModelIndex(FROZEN, GenerationConfig.of(preset), encoder.config).write(folder)
    return Path(out)


def _learning(preset: Preset) -> dict[str, TinyCodec]:
    """The codecs that learn, as they start."""
    sections = {name: preset.section(f"{name}_codec") for name in TRAINABLE}
    made = {
        name: video_codec_of(section) if name == "video" else audio_codec_of(section)
        for name, section in sections.items()
        if section["kind"] == TRAINABLE[name]
    }
    return cast(dict[str, TinyCodec], made)


def _named(module: nn.Module) -> Iterable[tuple[str, TinyCodec]]:
    """The codecs of the module that `build` made."""
    return cast(Iterable[tuple[str, TinyCodec]], module.named_children())


def _unnormalised(codec: VideoCodec | AudioCodec) -> Callable[[Tensor], Tensor]:
    """The codec's encoder without its statistics."""
    return lambda media: codec.norm.denormalise(codec.encode(media))


@dataclass(frozen=True)
class CodecMaker:
    """The codecs' stage on datasets."""

    stage: Stage
    datasets: Datasets

    def __call__(self) -> CodecStage:
        return CodecStage(self.stage, self.datasets)
