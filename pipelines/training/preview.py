"""Validation samples: what the network makes, at this step, of conditions from its own data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from model.codecs import AudioCodec, VideoCodec
from model.codecs.loading import load_audio_codec, load_video_codec
from model.guidance import Streams
from model.inputs import AUDIO, VIDEO, JointInputs, JointOutputs
from model.keyframes import KeyframeInput
from model.media import output_frames
from model.sampler import sample, timestep_schedule
from pipelines.training.batch import TrainingBatch
from pipelines.training.latents.sample import LatentSample
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
    """Writes latents as media, by the codecs in a folder of components."""

    video: VideoCodec
    audio: AudioCodec

    @classmethod
    def load(cls, components: str | Path) -> "Decoder":
        """From `video_codec/` and `audio_codec/`."""
        return cls(
            load_video_codec(Path(components) / "video_codec"), load_audio_codec(Path(components) / "audio_codec")
        )

    def write(self, task: str, streams: Streams, samples: Sequence[LatentSample], folder: Path) -> list[Path]:
        """`<task>-<key>.mp4` with its sound, `.png` of a picture, `.flac` of sound alone, for every sample."""
        written = []
        for row, made in enumerate(samples):
            path = folder / f"{task}-{made.key.replace('/', '_')}"
            video, audio = (
                streams[name][row : row + 1].float().cpu() if name in streams else None for name in ("video", "audio")
            )
            written.append(self._write(path, video, audio, made))
        return written

    def _write(self, path: Path, video: Tensor | None, audio: Tensor | None, made: LatentSample) -> Path:
        sound = None if audio is None else self.audio.decode(audio)[0].numpy()
        rate = self.audio.spec.sample_rate
        if video is None:
            write_flac(flac := path.with_name(f"{path.name}.flac"), sound, rate)
            return flac
        frames = output_frames(self.video.decode(video)[0], "np")
        if len(frames) == 1:
            Image.fromarray(frames[0]).save(png := path.with_name(f"{path.name}.png"))
            return png
        clip = made.shape
        fps = clip.fps * (len(frames) - 1) / (clip.frames - 1)  # the refiner's clips have more frames in their time
        write_video(mp4 := path.with_name(f"{path.name}.mp4"), frames, fps, audio=sound, sample_rate=rate)
        return mp4


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
