"""Random stretches of curated clips, for codecs to learn from: a function of the seed, the step and the slot."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pipelines.dataset.reader import Clip, ClipDataset, open_video, read_sound
from pipelines.training.data.draws import drawn_by
from skyreels.media.errors import MediaError

_TRIES = 8  # clips tried in place of one that cannot be read

Read = Callable[[Clip, np.random.Generator], tuple[Tensor, float]]
"""The values of a window, and where it begins in its clip."""


@dataclass(frozen=True)
class Windows:
    """`values`: pixels (B, 3, F, H, W) or sound (B, channels, samples) in [-1, 1], of `clips` from `starts_s` on.

    `skipped` says of each clip that could not be read, and was replaced by another, which it was and why.
    """

    values: Tensor
    clips: tuple[Clip, ...]
    starts_s: tuple[float, ...]
    skipped: tuple[str, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(clip.key for clip in self.clips)


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

    @property
    def has_pixels(self) -> bool:
        return bool(self._seen)

    def has_sounds(self, samples: int) -> bool:
        return bool(self._heard(samples))

    def pixels(self, step: int, slot: int, count: int) -> Windows:
        """`count` windows of clips, scaled to cover the size, their middle."""
        last_s = self._last_s

        def read(clip: Clip, generator: np.random.Generator) -> tuple[Tensor, float]:
            start_s = int(generator.integers(int((clip.seconds - last_s) * clip.fps) + 1)) / clip.fps
            times = start_s + np.arange(self.frames) / self.fps
            return open_video(self.dataset.storage, clip).read(times, self.height, self.width), start_s

        return self._drawn("pixels", self._seen, read, step, slot, count)

    def sounds(self, step: int, slot: int, count: int, samples: int) -> Windows:
        """`count` windows of `samples` samples, from clips and from sound alone."""
        seconds = samples / self.sample_rate

        def read(clip: Clip, generator: np.random.Generator) -> tuple[Tensor, float]:
            start_s = float(generator.uniform(0, clip.seconds - seconds))
            storage, rate = self.dataset.storage, self.sample_rate
            return read_sound(storage, clip, start_s, samples, sample_rate=rate, stereo=self.stereo), start_s

        return self._drawn("sound", self._heard(samples), read, step, slot, count)

    @cached_property
    def _seen(self) -> list[Clip]:
        return [clip for clip in self.dataset.clips if clip.kind == "video" and clip.seconds >= self._last_s]

    @property
    def _last_s(self) -> float:
        """When the last frame of a window of pixels is shown."""
        return (self.frames - 1) / self.fps

    def _heard(self, samples: int) -> list[Clip]:
        seconds = samples / self.sample_rate
        return [clip for clip in self.dataset.clips if clip.has_audio and clip.seconds >= seconds]

    def _drawn(self, what: str, clips: list[Clip], read: Read, step: int, slot: int, count: int) -> Windows:
        if not clips:
            raise ValueError(f"{self.dataset.storage.root} holds no clip with {what} of the length that is asked for")
        values, found, starts, skipped = [], [], [], []
        for place in range(count):
            generator = drawn_by(self.seed, what, step, slot, place)
            for attempt in range(1, _TRIES + 1):
                clip = clips[int(generator.integers(len(clips)))]
                try:
                    value, start_s = read(clip, generator)
                    break
                except MediaError as error:
                    if attempt == _TRIES:
                        raise
                    skipped.append(str(error))
            values.append(value)
            found.append(clip)
            starts.append(start_s)
        return Windows(torch.stack(values), tuple(found), tuple(starts), tuple(skipped))
