"""Random stretches of curated clips, for codecs to learn from: a function of the seed, the step and the slot."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipelines.dataset.reader import Clip, ClipDataset, open_video, read_sound
from pipelines.training.data.draws import drawn_by
from skyreels.media.errors import MediaError

_TRIES = 8  # clips tried in place of one that cannot be read

Read = Callable[[Clip, np.random.Generator], Tensor]


@dataclass(frozen=True)
class Windows:
    """`values`: pixels (B, 3, F, H, W) or sound (B, channels, samples) in [-1, 1], from the clips `keys`.

    `skipped` says of each clip that could not be read, and was replaced by another, which it was and why.
    """

    values: Tensor
    keys: tuple[str, ...]
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class RandomWindows:
    """Draws windows of one shape from the clips of a dataset that are long enough."""

    dataset: ClipDataset
    height: int
    width: int
    frames: int
    fps: float
    sample_rate: int
    stereo: bool
    seed: int = 0

    def pixels(self, step: int, slot: int, count: int) -> Windows:
        """`count` windows of clips, scaled to cover the size, their middle."""
        last_s = (self.frames - 1) / self.fps
        clips = [clip for clip in self.dataset.clips if clip.kind == "video" and clip.seconds >= last_s]

        def read(clip: Clip, generator: np.random.Generator) -> Tensor:
            first = int(generator.integers(int((clip.seconds - last_s) * clip.fps) + 1))
            times = first / clip.fps + np.arange(self.frames) / self.fps
            return open_video(self.dataset.storage, clip).read(times, self.height, self.width)

        return self._drawn("pixels", clips, read, step, slot, count)

    def sounds(self, step: int, slot: int, count: int, samples: int) -> Windows:
        """`count` windows of `samples` samples, from clips and from sound alone."""
        seconds = samples / self.sample_rate
        clips = [clip for clip in self.dataset.clips if clip.has_audio and clip.seconds >= seconds]

        def read(clip: Clip, generator: np.random.Generator) -> Tensor:
            start_s = float(generator.uniform(0, clip.seconds - seconds))
            storage, rate = self.dataset.storage, self.sample_rate
            return read_sound(storage, clip, start_s, samples, sample_rate=rate, stereo=self.stereo)

        return self._drawn("sound", clips, read, step, slot, count)

    def _drawn(self, what: str, clips: list[Clip], read: Read, step: int, slot: int, count: int) -> Windows:
        if not clips:
            raise ValueError(f"{self.dataset.storage.root} holds no clip with {what} of the length that is asked for")
        values, keys, skipped = [], [], []
        for place in range(count):
            generator = drawn_by(self.seed, what, step, slot, place)
            for attempt in range(1, _TRIES + 1):
                clip = clips[int(generator.integers(len(clips)))]
                try:
                    values.append(read(clip, generator))
                    keys.append(clip.key)
                    break
                except MediaError as error:
                    if attempt == _TRIES:
                        raise
                    skipped.append(str(error))
        return Windows(torch.stack(values), tuple(keys), tuple(skipped))
