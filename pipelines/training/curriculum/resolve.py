"""A recipe at a preset's size: everything concrete that a stage runs with."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from model.config import Preset, from_mapping
from model.sampling.flow import FlowConfig
from pipelines.training.curriculum.recipe import STAGES, StageRecipe, load_recipe, shares, training_preset
from pipelines.training.data.assembler import IndexedSample, SparsitySchedule
from pipelines.training.data.epochs import steps_in_all
from pipelines.training.data.held_out import held_out
from pipelines.training.data.sampler import Sampler, handed_on
from pipelines.training.latents.index import LatentError, LatentIndex
from pipelines.training.latents.spec import Bucket, LatentSpec
from pipelines.training.latents.union import LatentUnion
from pipelines.training.learners.network import Branches
from pipelines.training.tasks import BOTH, HALVES, TASKS, Described, Dropout, TaskSettings, TrainingTask
from skyreels.config import ConfigError, build
from skyreels.training.config import EngineConfig
from skyreels.training.errors import TrainingError
from skyreels.training.ranks import Ranks

logger = logging.getLogger(__name__)

REFINED_FPS_SHARE = 0.9
"""Pictures shown twice teach the refiner judder: of 30 a second it is one in sixteen at 32, of 24 one in four."""


@dataclass(frozen=True)
class Stage:
    """One stage of the curriculum with all its numbers. `mix` are the tasks' shares, summing to 1."""

    recipe: StageRecipe
    preset: Preset
    mix: Mapping[str, float]
    sizes: tuple[int, ...]
    """Short sides in pixels, of this stage's samples; none: any."""
    lengths: tuple[float, ...]
    """Nominal seconds of this stage's samples."""
    latents: LatentSpec
    """The cache it reads; other stages may read more of it, or less."""
    settings: TaskSettings
    flow: FlowConfig
    sparsity: SparsitySchedule | None
    adapter: int = 0
    """Parameters of a low-rank adapter that learns in the place of the network's own; 0: none."""

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def kind(self) -> str:
        """codecs, transformer or refiner."""
        return self.recipe.kind

    @property
    def streams(self) -> frozenset[str]:
        """The branches its model has."""
        return frozenset(self.recipe.streams)

    @property
    def branches(self) -> Branches:
        """Which network it trains; of codecs, none of these, the kind of stage says so."""
        if self.kind == "refiner":
            return "refiner"
        return "joint" if len(self.streams) == 2 else self.recipe.streams[0]

    @property
    def steps(self) -> int | None:
        """Where they are set; None: as many as the data make."""
        return self.recipe.steps or None

    def takes(self, bucket: Bucket) -> bool:
        """Whether samples of a bucket of its cache are this stage's."""
        return (not (bucket.size and self.sizes) or bucket.size in self.sizes) and (
            not bucket.seconds or bucket.seconds in self.lengths
        )

    def engine(self, steps: int) -> EngineConfig:
        """The engine's settings for a run of `steps` steps; warm-up takes a tenth of a short run, at most."""
        values = {name: getattr(self.recipe, name) for name in EngineConfig.model_fields}
        warmup = min(self.recipe.schedule.warmup_steps, steps // 10)
        schedule = self.recipe.schedule.model_copy(update={"warmup_steps": warmup})
        return EngineConfig(**{**values, "steps": steps, "schedule": schedule})


def load_stage(name: str, preset: Preset, overrides: Sequence[str] = ()) -> Stage:
    """A stage by the name of its recipe, or a YAML file, with `key=value` overrides. Raises ConfigError."""
    return resolve(load_recipe(name, preset, overrides), preset, overrides)


def resolve(recipe: StageRecipe, preset: Preset, overrides: Sequence[str] = ()) -> Stage:
    """The stage of a recipe that was loaded for this preset; `overrides` are of the recipes that share its cache.

    Raises ConfigError where recipe and preset do not go together.
    """
    flow = {**preset.sections.get("flow", {}), **recipe.flow}
    _check_streams(recipe, preset)
    return Stage(
        recipe=recipe,
        preset=preset,
        mix=_mix(recipe),
        sizes=_sizes(recipe, preset),
        lengths=_lengths(recipe, preset),
        latents=_latent_spec(recipe, preset, overrides),
        settings=TaskSettings(
            shares(recipe.captions),
            Dropout(recipe.dropout.text, recipe.dropout.references),
            preset.refiner,
            recipe.low_noise,
        ),
        flow=from_mapping(FlowConfig, flow, f"{recipe.name}: flow"),
        sparsity=_sparsity(recipe, preset),
    )


def held_out_of(stage: Stage, index: LatentIndex | LatentUnion) -> frozenset[str]:
    """Keys of the samples that the stage's steps never see."""
    tasks = [partial(_usable, stage, task) for task in stage.mix]
    return held_out(_samples_of(stage, index), tasks)


def sampler_for(
    stage: Stage,
    index: LatentIndex | LatentUnion,
    tokens: Callable[[str, str], int],
    held: frozenset[str] = frozenset(),
) -> Sampler[IndexedSample]:
    """The sampler of a stage over its cache without `held`; `tokens(task, bucket)` are of one sample. Where the stage
    sets its steps, tasks come by their shares; where it sets epochs, every kind of samples comes as often.

    Raises SamplerError for a task that finds no sample.
    """
    sampler = Sampler[IndexedSample](
        _samples_of(stage, index),
        stage.mix,
        usable=partial(_usable, stage),
        tokens=tokens,
        slots=stage.recipe.slots,
        tokens_per_slot=stage.recipe.tokens_per_slot,
        seed=stage.recipe.seed,
        optional=_optional(stage),
        needs={task: _needs_in_words(TASKS[task], stage) for task in stage.mix},
        heirs=HALVES,
        held=held,
    )
    return sampler if stage.steps else sampler.by_epochs()


def check_cached(stage: Stage, spec: LatentSpec, where: str) -> None:
    """Raises LatentError where the cache `where`, made by this spec, was made without what the stage draws."""
    lacking = {f"captions.{form}=0": f"{form} captions" for form, share in stage.settings.captions.items()
               if share > 0 and form not in spec.captions}  # fmt: skip
    for name in stage.mix:
        if name not in _optional(stage) and (parts := _uncached(TASKS[name], spec)):
            lacking[f"tasks.{name}=0"] = f"{' and '.join(parts)} for {name}"
    if lacking:
        raise LatentError(
            f"{where} was made without {', '.join(lacking.values())}, which {stage.name} draws. Cache the data for "
            f"this recipe: run jobs/train.py, or jobs/cache.py --stage {stage.name}, without settings of latents "
            f"(the preset's training.latents, or the command's) that leave it out; or draw none of it: "
            f"{' '.join(lacking)}"
        )


def _uncached(task: TrainingTask, spec: LatentSpec) -> list[str]:
    """What of a task's needs no sample of such a cache has, in words."""
    kinds = sorted(task.kinds & set(spec.kinds))
    held = {
        "stills": spec.stills,
        "extensions": spec.extensions > 0,
        "regions": any(spec.regions_of(kind) for kind in kinds),
        "before": True,
        "refined": spec.refined is not None,
    }
    parts = [f"{need} of {' and '.join(kinds)} samples" for need in sorted(task.needs) if not held[need]]
    if "pair" not in task.kinds:
        parts += [f"{kind} references" for kind in task.reference_kinds if kind not in spec.references]
    return parts


def steps_for(stage: Stage, sampler: Sampler[Any]) -> int:
    """How many steps the stage runs: those that are set, or its epochs over the samples there are."""
    return stage.steps or steps_in_all(sampler.epoch, stage.recipe.epochs)


def _optional(stage: Stage) -> tuple[str, ...]:
    """What may be left out: as the recipe says, and what needs several references where each of them may be."""
    single = {task.reads: name for name, task in TASKS.items() if task.reads and "pair" not in task.kinds}
    named = stage.recipe.optional
    together = [name for name in stage.mix if len(kinds := TASKS[name].reference_kinds) > 1
                and {single[kind] for kind in kinds} <= set(named)]  # fmt: skip
    return (*named, *together)


def _samples_of(stage: Stage, index: LatentIndex | LatentUnion) -> dict[str, Sequence[IndexedSample]]:
    return {name: index.buckets[name] for name, bucket in index.shapes.items() if stage.takes(bucket)}


def _usable(stage: Stage, task: str, sample: Described) -> bool:
    return TASKS[task].usable(sample, stage.streams)


def _mix(recipe: StageRecipe) -> dict[str, float]:
    """Shares of the tasks, without optional ones that need a stream which the stage does not train.

    Raises ConfigError for any other such task, and where none is left.
    """
    wanted, streams = shares(recipe.tasks), frozenset(recipe.streams)
    beyond = [task for task in wanted if not TASKS[task].suits(streams)]
    if not beyond:
        return wanted
    left = handed_on(wanted, beyond, HALVES)
    if not left or any(task not in recipe.optional for task in beyond):
        remedy = " ".join(f"tasks.{task}=0" for task in beyond) if left else "other tasks"
        raise ConfigError(
            f"{recipe.name} trains {_words(streams)} alone, and {', '.join(beyond)} cannot be learned without "
            f"{_words(BOTH - streams)}: set {remedy}, or streams=[video, audio] for a model that has both"
        )
    logger.warning("%s trains %s alone: without %s", recipe.name, _words(streams), ", ".join(beyond))
    return shares(left)


def _check_streams(recipe: StageRecipe, preset: Preset) -> None:
    """Raises ConfigError for a stream that the preset's transformer does not have."""
    channels = {"video": preset.transformer.video_channels, "audio": preset.transformer.audio_channels}
    lacking = [stream for stream in recipe.streams if not channels[stream]]
    if recipe.kind == "codecs" or not lacking:
        return
    held = [stream for stream in channels if channels[stream]]
    raise ConfigError(
        f"{recipe.name} trains {_words(recipe.streams)}, and preset {preset.name} has {_words(held)} alone "
        f"(transformer.{lacking[0]}_channels is 0): set streams=[{', '.join(held)}], or take a preset that has both"
    )


def _words(streams: Collection[str]) -> str:
    """`picture`, `sound`, or `picture and sound`."""
    return " and ".join({"video": "picture", "audio": "sound"}[stream] for stream in sorted(streams, reverse=True))


def _sizes(recipe: StageRecipe, preset: Preset) -> tuple[int, ...]:
    known = training_preset(preset).sizes
    missing = sorted(set(recipe.sizes) - known.keys())
    if missing:
        raise ConfigError(
            f"{recipe.name} is trained at {missing[0]} px, which preset {preset.name} does not know: add it to "
            f"training.sizes, or set sizes to some of {sorted(known)}"
        )
    return tuple(sorted({known[size] for size in recipe.sizes}))


def _lengths(recipe: StageRecipe, preset: Preset) -> tuple[float, ...]:
    size = training_preset(preset)
    within = [length for length in size.lengths if recipe.seconds.min <= length <= recipe.seconds.max]
    if not within:
        raise ConfigError(
            f"{recipe.name} wants clips of {recipe.seconds.min:g} to {recipe.seconds.max:g} s, and none of preset "
            f"{preset.name}'s training.lengths {list(size.lengths)} lies there"
        )
    return tuple(sorted({min(length, size.max_seconds) for length in within}))


def _latent_spec(recipe: StageRecipe, preset: Preset, overrides: Sequence[str]) -> LatentSpec:
    """What the stages that share the cache need, all together."""
    others = [override for override in overrides if not override.startswith(f"{recipe.name}.")]
    shipped = [load_recipe(name, preset, others) for name in STAGES if name != recipe.name]
    family = [recipe, *(other for other in shipped if other.latents == recipe.latents)]
    rates = {member.fps for member in family}
    if len(rates) > 1:
        raise ConfigError(f"stages of latents '{recipe.latents}' have frame rates {sorted(rates)}: name another cache")
    streams = frozenset(stream for member in family for stream in member.streams)
    tasks = {
        TASKS[task]
        for member in family
        for task in shares(member.tasks)
        if TASKS[task].suits(frozenset(member.streams))
    }
    needs = frozenset(need for task in tasks for need in task.needs)
    kinds = {kind for task in tasks for kind in task.kinds} or {"image", "video", "audio"}
    if "video" not in streams:
        kinds -= {"video"}  # the picture of a clip would be encoded for nothing
    undrawn = kinds & {"image", "video"} - {kind for task in tasks if "regions" in task.needs for kind in task.kinds}
    region_kinds = sorted({"image", "video"} - undrawn) if "regions" in needs else ["image", "video"]
    refined = {name: getattr(preset.refiner, name) for name in ("space_factor", "time_factor", "enlarges")}
    values = {
        "name": recipe.latents,
        "kinds": sorted(kinds),
        "sizes": sorted({side for member in family for side in _sizes(member, preset)}),
        "multiple": preset.video.stride[1] * preset.transformer.patch[1],
        "seconds": sorted({length for member in family for length in _lengths(member, preset)}),
        "fps": recipe.fps,
        "captions": [
            form for form in ("short", "long", "structured") if any(member.captions.get(form) for member in family)
        ]
        or ["short", "long", "structured"],
        "audio": "audio" in streams,
        "stills": "stills" in needs,
        "extensions": 2 if "extensions" in needs else 0,
        "regions": 1 if "regions" in needs else 0,
        "region_kinds": region_kinds,
        "references": [
            kind
            for kind in ("image", "video", "audio")
            if any(kind in task.reference_kinds and "pair" not in task.kinds for task in tasks)
        ],
        "refined": refined if "refined" in needs else None,
        **({"min_fps_share": REFINED_FPS_SHARE} if "refined" in needs else {}),
        **training_preset(preset).latents,
    }
    return build(LatentSpec, values, origin=f"the recipes of latents '{recipe.latents}', preset {preset.name}")


def _sparsity(recipe: StageRecipe, preset: Preset) -> SparsitySchedule | None:
    if recipe.sparsity is None:
        return None
    schedule = recipe.sparsity
    final = preset.refiner.sparsity if schedule.final is None else schedule.final
    return SparsitySchedule(schedule.start, schedule.rise, schedule.every, final)


def _needs_in_words(task: TrainingTask, stage: Stage) -> str:
    """Such as `video samples at 64 px with audio, video, image reference`."""
    members = sorted(task.streams_of(stage.streams) | task.needs)
    members += [f"{kind} reference" for kind in task.reference_kinds]
    sizes = "/".join(str(size) for size in stage.sizes)
    return f"{' or '.join(sorted(task.kinds))} samples at {sizes} px with {', '.join(members)}"


def check_groups(stage: Stage) -> None:
    """Raises ConfigError where `sequence_parallel` divides heads or workers unevenly, or workers the slots."""
    recipe, heads = stage.recipe, stage.preset.transformer.heads
    if heads % recipe.sequence_parallel:
        fitting = [count for count in range(1, heads + 1) if heads % count == 0]
        raise ConfigError(
            f"{stage.name}: the {heads} heads of preset {stage.preset.name} cannot be dealt out to sequence_parallel = "
            f"{recipe.sequence_parallel} workers: set it to one of {', '.join(map(str, fitting))}"
        )
    try:
        Ranks.of(0, max(1, recipe.workers), recipe.slots, stage.engine(1))
    except TrainingError as error:
        raise ConfigError(f"{stage.name}: {error}") from error
