"""Which stages a request makes run, on which data, and what they will cost.

<output>/components/      codecs and encoder, which latents are made with
<output>/latents/         caches that stages share
<output>/<stage>/         checkpoints, samples, metrics.jsonl, export, finished.json
<output>/model            the newest export: what `Generator.from_pretrained` loads
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.config import Preset, load_preset
from model.generation.prepared import GeneratorSpec
from pipelines.dataset.manifest import MANIFEST
from pipelines.dataset.parts_of_table import is_there
from pipelines.training.cost import Samples, StagePlan, machine_for, plan_stage, summary
from pipelines.training.curriculum.order import Curriculum
from pipelines.training.curriculum.recipe import StageRecipe, load_recipe
from pipelines.training.curriculum.resolve import Stage, check_groups, load_stage
from pipelines.training.data.datasets import Datasets
from skyreels.config import ConfigError
from skyreels.storage import Storage, normalise


@dataclass(frozen=True)
class Request:
    """What a user asks for. `settings` are key=value overrides of every recipe that runs.

    `data` holds datasets as curation leaves them; `datasets` names some of them, else recipes say which they want.
    `only` runs the stage alone, `fresh` begins it anew. `gpu` is a kind that a calibration knows; None: CPUs.
    """

    stage: str
    output: Path
    data: str
    preset: str = "tiny"
    datasets: tuple[str, ...] = ()
    pairs: str | None = None
    workers: int | None = None
    gpu: str | None = None
    settings: Sequence[str] = ()
    only: bool = False
    fresh: bool = False
    tracked: bool = True
    quiet: bool = False
    prompts: Callable[[GeneratorSpec], Mapping[str, bytes]] | None = None
    """Prepares calls that are sampled as the stages train, by name and as bytes."""

    @property
    def overrides(self) -> tuple[str, ...]:
        """Of recipes: the settings, and what the other fields say in a recipe's terms."""
        workers = () if self.workers is None else (f"workers={self.workers}",)
        gpus = () if self.gpu is None else ("gpus_per_worker=1",)
        return (*workers, *gpus, *self.settings)


@dataclass(frozen=True)
class TrainingPlan:
    """A request looked at: which stages are to run, and how one is set."""

    request: Request
    preset: Preset
    curriculum: Curriculum

    @classmethod
    def of(cls, request: Request) -> "TrainingPlan":
        """Raises ConfigError for an unknown stage, preset or setting."""
        preset = load_preset(request.preset)

        def load(name: str) -> StageRecipe:
            return load_recipe(name, preset, request.overrides)

        return cls(request, preset, Curriculum(str(request.output), preset, load))

    @property
    def stages(self) -> tuple[str, ...]:
        """Those still to run, in order. Raises CurriculumError where one that is needed and not to run is missing."""
        request = self.request
        return self.curriculum.plan(request.stage, only=request.only, again=request.fresh)

    def stage(self, name: str) -> Stage:
        """A stage with all its numbers. Raises ConfigError where they do not go together."""
        stage = load_stage(name, self.preset, self.request.overrides)
        check_groups(stage)
        return stage

    def folder(self, name: str) -> Path:
        """Of a stage."""
        return self.request.output / name

    @property
    def components(self) -> Path:
        """Codecs and encoder."""
        return self.request.output / "components"

    def datasets(self, stage: Stage) -> Datasets:
        """The datasets a stage learns from together: those asked for, else those its recipe names, else `default`.

        `default` serves where none of a recipe's is there; where some are absent, that is an error.
        """
        storage = Storage(normalise(self.request.data)).sub("datasets")
        wanted = tuple(dict.fromkeys(self.request.datasets or stage.recipe.data.curation or ("default",)))
        found = Datasets(storage.root, wanted)
        absent = [name for name in wanted if not is_there(storage, f"{name}/{MANIFEST}")]
        if not absent:
            return found
        if not self.request.datasets and len(absent) == len(wanted) and is_there(storage, f"default/{MANIFEST}"):
            return Datasets(storage.root, ("default",))
        folders = sorted({name.split("/")[0] for name in storage.names("")})
        there = [folder for folder in folders if is_there(storage, f"{folder}/{MANIFEST}")]
        raise ConfigError(
            f"{stage.name} wants dataset {found.in_words} below {storage.root}, which has "
            f"{', '.join(there) or 'none'}: run jobs/curate.py, or name those to learn from with --dataset"
        )

    def plan(self, stage: Stage, samples: Samples | None = None) -> StagePlan | None:
        """What a transformer stage costs, on `samples` or on the paper's; None on GPUs that nobody has named."""
        machine = machine_for(stage.recipe.workers, self.request.gpu, stage.recipe.gpus_per_worker)
        return plan_stage(stage, machine, samples) if machine else None


def describe(request: Request) -> str:
    """The plan in words: what would run, on which data, with what memory and in which time. Nothing is written."""
    training = TrainingPlan.of(request)
    lines = [f"output    {request.output}", f"preset    {training.preset.name}"]
    for name in training.stages:
        stage = training.stage(name)
        lines += ["", f"{name}: from {training.datasets(stage)}"]
        lines.append(_codecs_in_words(stage) if stage.kind == "codecs" else summary(training.plan(stage)))
    if len(lines) == 2:
        lines.append(f"nothing to do: {request.stage} is finished")
    return "\n".join(lines)


def check(training: TrainingPlan, stages: Sequence[str]) -> None:
    """What can be known to be wrong before anything expensive starts: settings, data, memory."""
    for name in stages:
        stage = training.stage(name)
        training.datasets(stage)
        plan = None if stage.kind == "codecs" else training.plan(stage)
        if plan is not None:
            plan.check()


def _codecs_in_words(stage: Stage) -> str:
    steps = stage.steps or "as many steps as its epochs make"
    return f"  codecs of the preset: trained for {steps} steps, or measured where they come with weights"
