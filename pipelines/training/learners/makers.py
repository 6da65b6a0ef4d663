"""What makes a stage's trainable in any process: plain values travel to workers, indices are opened there."""

from dataclasses import dataclass

from pipelines.training.curriculum.resolve import Stage, held_out_of, sampler_for
from pipelines.training.data.assembler import Assembler
from pipelines.training.data.datasets import Datasets
from pipelines.training.latents.union import Caches, open_caches
from pipelines.training.learners.codecs import CodecStage
from pipelines.training.learners.transformer import TransformerStage


@dataclass(frozen=True)
class CodecMaker:
    """The codecs' stage on datasets."""

    stage: Stage
    datasets: Datasets

    def __call__(self) -> CodecStage:
        return CodecStage(self.stage, self.datasets)


@dataclass(frozen=True)
class StageMaker:
    """A transformer's stage on the caches `latents`: a folder, or several by the names of their datasets.

    `starts` are folders of transformers to start from; `components` is one with codecs, for samples along the way.
    """

    stage: Stage
    latents: Caches
    starts: tuple[str, ...]
    components: str

    def __call__(self) -> TransformerStage:
        stage, recipe = self.stage, self.stage.recipe
        index = open_caches(self.latents)
        assembler = Assembler(
            stage.preset, stage.branches, index, stage.settings, stage.flow, stage.sparsity, recipe.fps
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
            sequence_parallel=recipe.sequence_parallel,
            components=self.components,
        )
