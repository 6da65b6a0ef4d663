"""Every stage that trains a transformer: its network, start, batches, and flow-matching loss (paper, section 3.1)."""

import dataclasses
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from model.network.elementwise import compile_elementwise
from model.network.inputs import AUDIO, VIDEO, JointOutputs
from model.network.mmdit import MMDiT
from pipelines.training.curriculum.resolve import Stage, check_cached, held_out_of, sampler_for
from pipelines.training.data.assembler import Assembler, IndexedSample
from pipelines.training.data.sampler import SHARES_PER, Draw, Sampler
from pipelines.training.data.selection import selectable
from pipelines.training.latents.index import LatentError
from pipelines.training.latents.sample import LatentSample
from pipelines.training.latents.union import Caches, open_caches
from pipelines.training.learners.asked import write_asked
from pipelines.training.learners.network import STREAMS, freeze, network_config
from pipelines.training.learners.preview import Decoder, PreviewSettings, denoise
from pipelines.training.learners.warm_start import StartWeights, warm_start
from pipelines.training.tasks import TASKS
from pipelines.training.tasks.batch import Target, TrainingBatch
from skyreels.training.trainable import Slot, StepLoss
from skyreels.training.ulysses import sequence_ranks

COMPARED = 32
"""Samples that weights are compared on: the comparison is of pairs, on the same noise, so few tell enough."""

CAPTURED_TEXT = 16
"""Tokens: a step is captured anew for every length of text."""

MOST_REPLACEMENTS = 8
"""For one sample; data where so many in a row cannot be read is no data."""


@dataclass
class TransformerStage:
    """Implements `skyreels.training.trainable.Trainable`.

    `held` are keys of samples that the sampler never draws. `starts_from` are folders of transformers (see
    `warm_start`); `freeze` names parameters that stay as they start (see `network.freeze`). `components` is a folder
    with codecs, which only `write_samples` needs; `prompts` one with prepared calls (see `asked`).
    """

    assembler: Assembler
    sampler: Sampler[IndexedSample]
    starts_from: Sequence[str | Path] = ()
    freeze: Sequence[str] = ()
    seed: int = 0
    activation_checkpointing: bool = False
    keep_attention: bool = False
    compiled: bool = False
    sequence_parallel: int = 1
    components: str | Path | None = None
    previews: PreviewSettings = field(default_factory=PreviewSettings)
    held: frozenset[str] = frozenset()
    prompts: str | None = None

    @property
    def slots(self) -> int:
        return self.sampler.slots

    def build(self) -> nn.Module:
        model = MMDiT(network_config(self.assembler.preset, self.assembler.branches))
        model.gradient_checkpointing, model.keeps_attention = self.activation_checkpointing, self.keep_attention
        compile_elementwise(self.compiled)
        freeze(model, self.freeze)
        ranks = sequence_ranks(self.sequence_parallel)
        if ranks is not None:
            model.share_sequences(ranks)
        return model

    def initial_weights(self) -> StartWeights:
        return warm_start(network_config(self.assembler.preset, self.assembler.branches), self.starts_from)

    def batch(self, slot: Slot) -> TrainingBatch:
        draw = self.sampler.draw(slot.step, slot.index)
        samples, skipped = self._read(draw, draw.slots[0])
        seed = np.random.SeedSequence((self.seed, slot.step, slot.index)).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(seed[0]))
        batch = self.assembler.batch(draw.task, samples, generator, slot.step)
        return dataclasses.replace(batch, skipped=skipped)

    def loss(self, module: nn.Module, batch: TrainingBatch) -> StepLoss:
        return objective(module, batch)

    def held_out(self) -> list[TrainingBatch]:
        """About `COMPARED` samples, as the mix has its tasks, from all buckets; in no slot, where that can be.

        A task that nothing is held out for takes samples that it learns from. Nothing is dropped, sparse attention is
        as sparse as it gets, and the noise is the same at every call, another where a sample comes again.
        """
        batches: list[TrainingBatch] = []
        for task, thousandths in sorted(self.sampler.mix.items()):
            generator = torch.Generator().manual_seed(self.seed)
            count = max(1, round(COMPARED * thousandths / SHARES_PER))
            samples = self._compared(task, count)
            while samples and count > 0:
                for group in samples[:count]:
                    batches.append(self.assembler.undropped().batch(task, group, generator, step=sys.maxsize))
                    count -= len(group)
        return batches

    def _compared(self, task: str, count: int) -> list[list[LatentSample]]:
        """Samples of the task, as they go together into a batch, from no more than `count` buckets."""
        parts = self.sampler.parts(task)[:count]
        spared = [list(filter(partial(self._usable, task), selectable(p.entries).of_keys(self.held))) for p in parts]
        if not any(spared):
            spared = [[part.entry(place) for place in range(min(count, len(part.chosen)))] for part in parts]
        wanted = math.ceil(count / len(parts))
        groups = (
            self.assembler.readable(entries, min(wanted, part.batch))
            for entries, part in zip(spared, parts, strict=True)
        )
        return [group for group in groups if group]

    def _usable(self, task: str, entry: IndexedSample) -> bool:
        return TASKS[task].usable(entry, STREAMS[self.assembler.branches])

    def write_samples(self, module: nn.Module, step: int, folder: Path | None) -> None:
        """One file per task of the mix and sample, of the same conditions and noise at every step."""
        if folder is not None and self.components is None:
            raise ValueError("samples are decoded by codecs: give the folder of components")
        decoder = Decoder.load(self.components) if folder is not None and self.components is not None else None
        for task in sorted(self.sampler.mix):
            samples = self.assembler.first(task, self.previews.count)
            generator = torch.Generator().manual_seed(self.seed)
            batch = self.assembler.undropped().batch(task, samples, generator, step)
            streams = denoise(module, batch, self.previews, generator)
            if decoder is not None and folder is not None:
                decoder.write(task, streams, samples, folder)
        if self.prompts is not None and self.components is not None:
            write_asked(module, self.prompts, self.components, folder)

    def _read(
        self, draw: Draw[IndexedSample], entries: Sequence[IndexedSample]
    ) -> tuple[list[LatentSample], tuple[str, ...]]:
        """The samples, and in words which ones were replaced because they cannot be read."""
        samples: list[LatentSample] = []
        skipped: list[str] = []
        for entry in entries:
            tried = entry
            for attempt in range(1, MOST_REPLACEMENTS + 1):
                try:
                    samples.append(self.assembler.latents.read(tried))
                    break
                except LatentError as error:
                    if attempt == MOST_REPLACEMENTS:
                        raise
                    skipped.append(str(error))
                    tried = self.sampler.replacement(draw, entry, attempt)
        return samples, tuple(skipped)


@dataclass(frozen=True)
class StageMaker:
    """A transformer's stage on the caches `latents`: a folder, or several by the names of their datasets.

    `starts` are folders of transformers to start from; `components` is one with codecs, for samples along the way, and
    `prompts` one with prepared calls to sample as well.
    """

    stage: Stage
    latents: Caches
    starts: tuple[str, ...]
    components: str
    prompts: str | None = None

    def __call__(self) -> TransformerStage:
        stage, recipe = self.stage, self.stage.recipe
        index = open_caches(self.latents)
        for where, spec in index.made.items():
            check_cached(stage, spec, where)
        assembler = Assembler(
            stage.preset,
            stage.branches,
            index,
            stage.settings,
            stage.flow,
            stage.sparsity,
            recipe.fps,
            CAPTURED_TEXT if recipe.captured else 1,
        )
        held = held_out_of(stage, index)
        return TransformerStage(
            assembler,
            sampler_for(stage, index, assembler.tokens, held),
            held=held,
            starts_from=self.starts,
            freeze=recipe.freeze,
            seed=recipe.seed,
            activation_checkpointing=recipe.activation_checkpointing,
            keep_attention=recipe.keep_attention,
            compiled=recipe.compiled,
            sequence_parallel=recipe.sequence_parallel,
            components=self.components,
            prompts=self.prompts,
            previews=PreviewSettings(shift=stage.preset.refiner.shift)
            if stage.kind == "refiner"
            else PreviewSettings(),
        )


QUARTERS = 4
"""Of the timesteps, 0 = noise to 1 = data, that losses are logged by."""


def objective(module: nn.Module, batch: TrainingBatch) -> StepLoss:
    """Loss of video, audio and keyframes, 1:1:1, each the mean over samples of the mean over the sample's latents.

    Every sample counts the same, however much of it is kept, so the loss of a global batch does not depend on which
    slot a sample falls into.
    """
    outputs: JointOutputs = module(batch.inputs)
    total: Tensor | None = None
    sums: dict[str, tuple[Tensor | float, Tensor | float]] = {}
    for stream, target in batch.targets.items():
        losses = sample_losses(getattr(outputs, stream), target)
        total = losses.mean() if total is None else total + losses.mean()
        levels = batch.inputs.timesteps[:, AUDIO if stream == "audio" else VIDEO]
        sums |= _logged(batch.task, stream, losses.detach(), levels)
    if total is None:
        raise ValueError(f"task {batch.task} of {', '.join(batch.keys)} has no stream to learn")
    return StepLoss(total, sums)


def sample_losses(velocity: Tensor, target: Target) -> Tensor:
    """(B,) weighted mean squared errors, in float32."""
    error = (velocity.float() - target.velocity).square()
    weight = target.weight.expand_as(error)
    return (error * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)


def _logged(task: str, stream: str, losses: Tensor, levels: Tensor) -> dict[str, tuple[Tensor | float, Tensor | float]]:
    """(sum, count) of samples: of the task, and by quarter of the timestep. Every quarter is there on every rank."""
    quarter = (levels * QUARTERS).long().clamp(max=QUARTERS - 1)
    sums: dict[str, tuple[Tensor | float, Tensor | float]] = {f"loss/{task}/{stream}": (losses.sum(), len(losses))}
    for number in range(QUARTERS):
        within = (quarter == number).to(losses)
        sums[f"loss/{stream}/t{number}"] = ((losses * within).sum(), within.sum())
    return sums
