"""What makes a stage's trainable in any process: plain values travel to workers, indices are opened there."""

from dataclasses import dataclass

from pipelines.training.assembler import Assembler
from pipelines.training.codec_stage import CodecStage
from pipelines.training.latents.index import open_latents
from pipelines.training.resolve import Stage, sampler_for
from pipelines.training.stage import TransformerStage


@dataclass(frozen=True)
class CodecMaker:
    """The codecs' stage on a dataset."""

    stage: Stage
    dataset: str

    def __call__(self) -> CodecStage:
        return CodecStage(self.stage, self.dataset)


@dataclass(frozen=True)
class StageMaker:
    """A transformer's stage on the cache in the folder `latents`.

    `starts` are folders of transformers to start from; `components` is one with codecs, for samples along the way.
    """

    stage: Stage
    latents: str
    starts: tuple[str, ...]
    components: str

    def __call__(self) -> TransformerStage:
        stage, recipe = self.stage, self.stage.recipe
        index = open_latents(self.latents)
        assembler = Assembler(
            stage.preset, stage.branches, index, stage.settings, stage.flow, stage.sparsity, recipe.fps
        )
        return TransformerStage(
            assembler,
            sampler_for(stage, index, assembler.tokens),
            starts_from=self.starts,
            freeze=recipe.freeze,
            seed=recipe.seed,
            activation_checkpointing=recipe.activation_checkpointing,
            sequence_parallel=recipe.sequence_parallel,
            components=self.components,
        )
