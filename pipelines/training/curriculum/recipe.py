"""A recipe: everything that decides what one stage of the curriculum learns, as YAML in `recipes/`.

Sizes and lengths are the paper's; a preset's `training` section says what they are at its size, and may lay values
of its own over a recipe, for all stages (`defaults`) or for one (`stages`). `key=value` overrides come last.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from model.config import Preset
from pipelines.training.tasks import TASKS
from skyreels.config import Config, ConfigError, apply_overrides, build, find_config, merge, read_yaml, suggest
from skyreels.training.config import EngineConfig

RECIPES = Path(__file__).parent / "recipes"
STAGES = (
    *("codecs", "video-1", "video-2", "video-3", "video-4", "video-5", "video-6"),
    *("audio", "joint", "sft-1", "sft-2", "keyframes", "refiner"),
)
"""The shipped recipes, in the order of the curriculum."""
GROUPS = {"video": "video-", "sft": "sft-", "all": ""}
"""Names for several stages, and how theirs begin."""


class SecondsConfig(Config):
    """Shortest and longest clips, as the paper gives them."""

    min: float = Field(0.0, ge=0)
    max: PositiveFloat


class DropoutConfig(Config):
    """Shares of samples that learn without their text, and without their references, as guidance needs."""

    text: float = Field(0.1, ge=0, le=1)
    references: float = Field(0.1, ge=0, le=1)


class SparsityConfig(Config):
    """Video Sparse Attention over steps: `start`, then `rise` more after every `every` steps, up to `final`."""

    start: float = Field(0.0, ge=0, lt=1)
    rise: float = Field(0.03, ge=0, lt=1)
    every: PositiveInt = 30
    final: float | None = Field(None, ge=0, lt=1, description="null: what the preset's refiner samples with")


class DataConfig(Config):
    """The data a stage is meant for: which recipes curate it, and how much of it the paper had."""

    curation: tuple[str, ...] = Field((), description="their datasets are read together")
    images: float = Field(0, ge=0)
    clips: float = Field(0, ge=0)
    hours: float = Field(0, ge=0, description="of sound alone")


class StageRecipe(EngineConfig):
    """One stage: the engine's settings, and what is learned from which data.

    `tasks` are shares, relative to their sum. `starts_from` lists what must be finished before; each item names
    alternatives, the best first. Stages of one `latents` name share a cache, which holds what any of them needs.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    kind: Literal["codecs", "transformer", "refiner"] = "transformer"
    steps: int = Field(0, ge=0, description="0: as many as `epochs` of the data make")
    epochs: PositiveFloat = 1.0
    starts_from: tuple[tuple[str, ...], ...] = ()
    streams: tuple[Literal["video", "audio"], ...] = ("video",)
    tasks: dict[str, float] = Field(default_factory=dict)
    optional: tuple[str, ...] = Field((), description="tasks that are left out where the data has no sample for them")
    sizes: tuple[PositiveInt, ...] = Field((256,), description="short sides of the paper, in pixels; none: any")
    seconds: SecondsConfig = SecondsConfig(max=15)
    fps: PositiveFloat = 16.0
    captions: dict[Literal["short", "long", "structured"], float] = Field(default_factory=dict)
    dropout: DropoutConfig = DropoutConfig()
    flow: dict[str, Any] = Field(default_factory=dict, description="over the preset's `flow` section")
    freeze: tuple[str, ...] = Field((), description="groups (video, audio, between) or patterns that do not learn")
    sparsity: SparsityConfig | None = None
    low_noise: float = Field(0.1, ge=0, le=1, description="noise in the refiner's low-resolution input, at most")
    keep_attention: bool = Field(False, description="with activation_checkpointing: not attention, which is kept")
    compiled: bool = Field(
        False, description="elementwise work of the layers as one kernel each: takes triton on a GPU, g++ on a CPU"
    )
    slots: PositiveInt = 1
    tokens_per_slot: PositiveInt = Field(8192, description="as layers hold them: media, and text once per branch")
    latents: str = Field("default", pattern=r"^[A-Za-z0-9_.-]+$")
    data: DataConfig = DataConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        unknown = sorted((self.tasks.keys() | set(self.optional)) - TASKS.keys())
        if unknown:
            raise ValueError(
                f"unknown task '{unknown[0]}'{suggest(unknown[0], list(TASKS))}; tasks: {', '.join(TASKS)}"
            )
        negative = [task for task, share in self.tasks.items() if share < 0]
        if negative:
            raise ValueError(f"the share of {negative[0]} is below 0")
        if self.kind != "codecs" and not sum(self.tasks.values()) > 0:
            raise ValueError("tasks has no share above 0: name at least one task")
        if self.kind != "codecs" and not sum(self.captions.values()) > 0:
            raise ValueError("captions has no share above 0: name at least one of short, long, structured")
        if self.seconds.min > self.seconds.max:
            raise ValueError(f"seconds.min {self.seconds.min:g} is above seconds.max {self.seconds.max:g}")
        return self


class TrainingPreset(Config):
    """A preset's `training` section: what the curriculum is at that size."""

    sizes: dict[int, PositiveInt] = Field(description="short sides in pixels for the paper's")
    lengths: tuple[PositiveFloat, ...] = Field(description="seconds that clips are cut to, before the cap")
    max_seconds: PositiveFloat = Field(description="no clip is longer, whatever the paper says")
    latents: dict[str, Any] = Field(default_factory=dict, description="over what `resolve` makes of a LatentSpec")
    defaults: dict[str, Any] = Field(default_factory=dict, description="over every recipe")
    stages: dict[str, dict[str, Any]] = Field(default_factory=dict, description="over one recipe, by stage")


def training_preset(preset: Preset) -> TrainingPreset:
    """The `training` section. Raises ConfigError that names a bad key."""
    return build(TrainingPreset, preset.section("training"), origin=f"preset {preset.name}: training")


def load_recipe(name: str, preset: Preset, overrides: Sequence[str] = ()) -> StageRecipe:
    """A shipped recipe, or a YAML file, as it is at this preset's size. Raises ConfigError.

    `overrides` such as `steps=400` are for any stage; `joint.steps=400` is left to the stage of that name.
    """
    size = training_preset(preset)
    values = read_yaml(find_config(name, RECIPES))
    stage = str(values.get("name", ""))
    values = merge(merge(values, size.defaults), size.stages.get(stage, {}))
    return build(StageRecipe, apply_overrides(values, _meant_for(stage, overrides)), f"{name}, preset {preset.name}")


def stages_of(name: str) -> tuple[str, ...]:
    """The stages that a name stands for: itself, or `video`, `sft`, `all`. Raises ConfigError with a suggestion."""
    if name in STAGES:
        return (name,)
    if name in GROUPS:
        return tuple(stage for stage in STAGES if stage.startswith(GROUPS[name]))
    known = [*STAGES, *GROUPS]
    raise ConfigError(
        f"no stage '{name}'{suggest(name, known)}; stages: {', '.join(STAGES)}; groups: {', '.join(GROUPS)}"
    )


def shares(values: Mapping[Any, float]) -> dict[str, float]:
    """Those above 0, summing to 1."""
    total = sum(values.values())
    return {name: share / total for name, share in values.items() if share > 0}


def _meant_for(stage: str, overrides: Sequence[str]) -> list[str]:
    """Those without a stage's name before the key, and those with this one's."""
    others = tuple(f"{name}." for name in STAGES if name != stage)
    return [override.removeprefix(f"{stage}.") for override in overrides if not override.startswith(others)]
