"""Validation samples: what the network makes, at this step, of conditions from its own data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from model.codecs import AudioCodec, VideoCodec
from model.codecs.loading import load_audio_codec, load_video_codec
from model.folder import AUDIO_CODEC, VIDEO_CODEC
from model.media import output_frames
from model.network.inputs import AUDIO, VIDEO, JointInputs, JointOutputs
from model.network.keyframes import KeyframeInput
from model.sampling.guidance import Streams
from model.sampling.sampler import sample, timestep_schedule
from pipelines.training.latents.sample import LatentSample
from pipelines.training.tasks.batch import TrainingBatch
from skyreels.media.encode import write_flac, write_video


@dataclass(frozen=True)
class PreviewSettings:
    """`count` samples of every task in the mix, by `steps` Euler steps without guidance."""

    count: int = 1
    steps: int = 12
    shift: float = 3.0


def denoise(module: nn.Module, batch: TrainingBatch, settings: PreviewSettings, generator: torch.Generator) -> Streams:
    """Latents of the batch's streams from noise, conditioned as the batch is; given streams as they are given.

    Without gradients, and by forward passes alone, so that it runs under ZeRO-3 where all ranks call it alike.
    """
    device = next(module.parameters()).device
    inputs = batch.to(device).inputs
    noise = {
        stream: torch.randn(target.velocity.shape, generator=generator).to(device)
        for stream, target in batch.targets.items()
    }

    def velocity(latents: Streams, t: float) -> Streams:
        outputs: JointOutputs = module(_at(inputs, latents, t))
        return {stream: getattr(outputs, stream) for stream in latents}

    return _given(batch) | sample(velocity, noise, timestep_schedule(settings.steps, settings.shift))


@dataclass(frozen=True)
class Decoder:
    """Writes latents as media, by the codecs in a folder of components; a model without sound has none for it."""

    video: VideoCodec
    audio: AudioCodec | None

    @classmethod
    def load(cls, components: str | Path) -> "Decoder":
        """From a folder laid out as `model.folder` does."""
        video, audio = Path(components) / VIDEO_CODEC, Path(components) / AUDIO_CODEC
        return cls(load_video_codec(video), load_audio_codec(audio) if audio.is_dir() else None)

    def write(self, task: str, streams: Streams, samples: Sequence[LatentSample], folder: Path) -> None:
        """A file `<task>-<key>` for every sample, of the streams it has."""
        for row, made in enumerate(samples):
            video, audio = (
                streams[name][row : row + 1].float().cpu() if name in streams else None for name in ("video", "audio")
            )
            pixels = None if video is None else self.video.decode(video)[0]
            sound, rate = (None, 0) if audio is None else self._heard(audio)
            path = folder / f"{task}-{made.key.replace('/', '_')}"
            write_media(path, pixels, sound, _fps(made, pixels), rate)

    def _heard(self, latents: Tensor) -> tuple[Tensor, int]:
        """Samples of (1, Ca, L), and their rate."""
        if self.audio is None:
            raise ValueError("there is sound to decode and no audio codec: give the folder of a model that has one")
        return self.audio.decode(latents)[0], self.audio.spec.sample_rate


def write_media(path: Path, pixels: Tensor | None, sound: Tensor | None, fps: float, sample_rate: int) -> Path:
    """`<path>.mp4` with its sound, `.png` of a picture, `.flac` of sound alone; pixels (3, F, H, W) in [-1, 1]."""
    audio = None if sound is None else sound.numpy()
    if pixels is None:
        if audio is None:
            raise ValueError(f"{path}: neither picture nor sound to write")
        flac = path.with_name(f"{path.name}.flac")
        write_flac(flac, audio, sample_rate)
        return flac
    frames = output_frames(pixels, "np")
    if len(frames) == 1:
        png = path.with_name(f"{path.name}.png")
        Image.fromarray(frames[0]).save(png)
        return png
    mp4 = path.with_name(f"{path.name}.mp4")
    write_video(mp4, frames, fps, audio=audio, sample_rate=sample_rate)
    return mp4


def _fps(made: LatentSample, pixels: Tensor | None) -> float:
    """Of what was made in the time of a sample: the refiner makes more frames of it. 0 for what does not move."""
    if made.shape is None or pixels is None or pixels.shape[1] == 1:
        return 0.0
    return made.shape.fps * (pixels.shape[1] - 1) / (made.shape.frames - 1)


def _at(inputs: JointInputs, latents: Streams, t: float) -> JointInputs:
    """The same inputs with other noisy latents, at another timestep."""
    timesteps = inputs.timesteps.clone()
    if "video" in latents:
        timesteps[:, VIDEO] = t
    if "audio" in latents:
        timesteps[:, AUDIO] = t
    keyframes = inputs.keyframes
    if keyframes is not None:
        keyframes = KeyframeInput(_channels(latents["keyframes"], keyframes.latents), keyframes.indices)
    return replace(
        inputs,
        timesteps=timesteps,
        video=_channels(latents["video"], inputs.video) if "video" in latents else inputs.video,
        audio=latents.get("audio", inputs.audio),
        keyframes=keyframes,
    )


def _channels(noisy: Tensor, before: Tensor | None) -> Tensor:
    """(V, I, M) with another V."""
    assert before is not None
    return torch.cat((noisy, before[:, noisy.shape[1] :]), 1)


def _given(batch: TrainingBatch) -> Streams:
    """Clean latents of streams that are inputs."""
    inputs, given = batch.inputs, {}
    if inputs.video is not None and "video" not in batch.targets:
        given["video"] = inputs.video[:, : (inputs.video.shape[1] - 1) // 2]
    if inputs.audio is not None and "audio" not in batch.targets:
        given["audio"] = inputs.audio
    return given
