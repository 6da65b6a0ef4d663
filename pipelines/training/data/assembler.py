"""From samples of one bucket to a batch: the task's examples, noised and stacked for one network."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor

from model.config import Preset, from_mapping
from model.sampling.flow import FlowConfig
from pipelines.training.data.selection import selectable
from pipelines.training.latents.index import LatentError
from pipelines.training.latents.sample import LatentSample
from pipelines.training.learners.network import STREAMS, Branches, network_config
from pipelines.training.tasks import ORDER, TASKS, Collation, Described, Dropout, TaskContext, TaskSettings, collate
from pipelines.training.tasks.batch import TrainingBatch


class IndexedSample(Described, Protocol):
    """A sample of the latent index, not read yet."""

    @property
    def key(self) -> str: ...

    @property
    def bucket(self) -> str: ...


class Latents(Protocol):
    """What is asked of a latent cache."""

    @property
    def buckets(self) -> Mapping[str, Sequence[IndexedSample]]: ...

    @property
    def null_text(self) -> Tensor: ...

    def read(self, entry: Any) -> LatentSample:
        """Raises LatentError."""

    def black(self, bucket: str, *, large: bool = False) -> Tensor: ...


@dataclass(frozen=True)
class SparsitySchedule:
    """The share of key cubes that sparse attention skips: up from `start` by `rise` every `every` steps to `final`."""

    start: float = 0.0
    rise: float = 0.03
    every: int = 30
    final: float = 0.875

    def at(self, step: int) -> float:
        """The sparsity of `step`."""
        return min(self.final, self.start + self.rise * (step // self.every))


@dataclass(frozen=True)
class Assembler:
    """Batches for the network that has `branches` of the preset's transformer. `fps` is of the stage's clips."""

    preset: Preset
    branches: Branches
    latents: Latents
    settings: TaskSettings = field(default_factory=TaskSettings)
    flow: FlowConfig | None = None
    """None takes the preset's."""
    sparsity: SparsitySchedule | None = None
    fps: float = 16.0
    text_multiple: int = 1

    def batch(
        self, task: str, samples: Sequence[LatentSample], generator: torch.Generator, step: int = 0
    ) -> TrainingBatch:
        """All that is random is drawn from `generator`; `step` sets the sparsity."""
        first = samples[0]
        context = TaskContext(
            settings=self.settings,
            streams=TASKS[task].streams_of(STREAMS[self.branches]),
            null_text=self.latents.null_text,
            generator=generator,
            form=torch.rand((), generator=generator).item(),
            black=None if first.video is None else self.latents.black(first.bucket),
            large_black=self.latents.black(first.bucket, large=True) if task == "keyframes" else None,
        )
        examples = [TASKS[task].make(sample, context) for sample in samples]
        collation = Collation(
            network_config(self.preset, self.branches),
            self.flow or from_mapping(FlowConfig, self.preset.section("flow"), f"{self.preset.name}: flow"),
            self.sparsity.at(step) if self.sparsity else 0.0,
            self.text_multiple,
        )
        keys = [sample.key for sample in samples]
        return collate(task, examples, keys, generator, collation, self._audio_time_scale(first))

    def undropped(self) -> "Assembler":
        """The same without dropout and noise on conditions: how the network is asked to generate. What is always
        dropped stays so: it is never given."""
        shares = self.settings.dropout
        dropout = Dropout(float(shares.text == 1), float(shares.references == 1))
        settings = dataclasses.replace(self.settings, dropout=dropout, keyframes_from_image=0.0, low_noise=0.0)
        return dataclasses.replace(self, settings=settings)

    def first(self, task: str, count: int, bucket: str | None = None) -> list[LatentSample]:
        """The first samples of one bucket that a task can use: of the named one, or of the first that has any."""
        buckets = self.latents.buckets
        clips_first = sorted(buckets, key=lambda name: (ORDER.index(buckets[name][0].kind), name))
        for name in [bucket] if bucket else clips_first:
            entries = buckets[name]
            places = selectable(entries).usable(partial(TASKS[task].usable, model=STREAMS[self.branches]), ())
            samples = self.readable((entries[places[number]] for number in range(len(places))), count)
            if samples:
                return samples
        raise ValueError(f"{bucket or 'the latents'}: no sample that {task} can use")

    def tokens(self, task: str, bucket: str) -> int:
        """Tokens of one sample as layers hold them, references, keyframes and each branch's text included.

        Reads the first sample that can be used.
        """
        batch = self.undropped().batch(task, self.first(task, 1, bucket), torch.Generator().manual_seed(0))
        branches = sum(latents is not None for latents in (batch.inputs.video, batch.inputs.audio))
        return batch.tokens + branches * batch.inputs.text.shape[1]

    def readable(self, entries: Iterable[IndexedSample], count: int) -> list[LatentSample]:
        """The first `count` of them that can be read."""
        return list(islice(self._readable(entries), count))

    def _readable(self, entries: Iterable[IndexedSample]) -> Iterator[LatentSample]:
        for entry in entries:
            with suppress(LatentError):  # where it is drawn for training, it is named and replaced
                yield self.latents.read(entry)

    def _audio_time_scale(self, sample: LatentSample) -> float:
        """Video latents per audio latent; for sound alone, those that a clip of its length would have."""
        if sample.audio is None:
            return 0.0
        length = sample.audio.shape[1]
        if sample.shape is not None:
            return sample.shape.latent_frames / length
        video, audio = self.preset.video, self.preset.audio
        frames = video.nearest_frames(length / audio.latent_rate * self.fps)
        return video.latent_frames(frames) / length
