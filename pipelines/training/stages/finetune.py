"""An adapter on a user's own clips: latents by the model's own codecs, training of A and B alone, a folder of them.

<output>/latents/       the clips, encoded
<output>/run/           checkpoints, samples, metrics.jsonl
<output>/adapter/       what `Generator.from_pretrained(model, lora=...)` and peft load
<output>/base.json      which model it is of, and the adapter's size
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from model import checksums
from model.checkpoint import saved_identity, stored_config
from model.config import Preset, TransformerConfig, load_preset
from model.costs.memory import meta_model
from model.folder import TRANSFORMER
from model.generation.components import read_spec
from pipelines.training.cost import ClusterSpec, StagePlan, machine_for, plan_stage, summary
from pipelines.training.curriculum.recipe import shares
from pipelines.training.curriculum.resolve import Stage, check_groups, load_stage, steps_for
from pipelines.training.latents.cache import cache
from pipelines.training.latents.job import CacheJob
from pipelines.training.learners.lora import LoraSettings, LoraStage, adapter_shapes, save_adapter
from pipelines.training.learners.network import network_config
from pipelines.training.learners.transformer import StageMaker
from pipelines.training.learners.warm_start import warm_start
from pipelines.training.stages.asked import Prepare, lay_out_prompts, with_samples
from pipelines.training.stages.observe import fit_observed
from pipelines.training.stages.run_record import note_run
from skyreels import cluster, tracking
from skyreels.config import ConfigError
from skyreels.training.checkpoints import open_checkpoint

RECORD = "base.json"


@dataclass(frozen=True)
class Request:
    """`model` is a generator's folder, `dataset` one that curation left, `preset` the size the model was trained at.

    `settings` are key=value overrides of the recipe. `gpu` is a kind that a calibration knows; None: CPUs, or GPUs
    that no plan is made for.
    """

    model: Path
    dataset: str
    output: Path
    preset: str = "tiny"
    recipe: str = "lora"
    lora: LoraSettings = field(default_factory=LoraSettings)
    gpu: str | None = None
    settings: Sequence[str] = ()
    tracked: bool = True
    quiet: bool = False
    prompts: Prepare | None = None


@dataclass(frozen=True)
class Finetuned:
    """`adapter` is None where the run was asked to stop before its end; the same request goes on from there."""

    adapter: Path | None
    step: int
    latents: str
    checkpoint: str


def finetune(request: Request) -> Finetuned:
    """Cache, train, save. Raises ConfigError, CheckpointError, CannotFit or LatentError before it trains."""
    preset = load_preset(request.preset)
    stage = _stage(request, preset)
    checksums.check(request.model / TRANSFORMER)
    warm_start(network_config(preset, stage.branches), [request.model / TRANSFORMER])  # says now whether they fit
    check_groups(stage)
    machine = machine_for(stage.recipe.workers, request.gpu, stage.recipe.gpus_per_worker)
    if machine:
        _plan(stage, machine, stage.steps or 1, stage.mix).check()
    _claim(request)
    with cluster.connect() if stage.recipe.workers else nullcontext():
        job = CacheJob.of_stage(stage, str(request.output), request.dataset, str(request.model))
        latents = cache(job, quiet=request.quiet).location
        note_run(request.output / "run", caches={Path(request.dataset).name: Path(latents).name})
        starts = (str(request.model / "transformer"),)
        asked, run = request.prompts, request.output / "run"
        prompts = None if asked is None else lay_out_prompts(asked, read_spec(request.model), run)
        make = LoraMaker(StageMaker(stage, latents, starts, str(request.model), prompts), request.lora)
        sampler = make().stage.sampler
        steps = steps_for(stage, sampler)
        print(summary(_plan(stage, machine, steps, sampler.mix) if machine else None), flush=True)
        run.mkdir(parents=True, exist_ok=True)
        params = {**stage.recipe.model_dump(mode="json"), **request.lora.model_dump(), "model": str(request.model)}
        with tracking.track(
            "finetuning", run_name=request.output.name, params=params, enabled=request.tracked
        ) as tracked:
            engine = stage.engine(steps) if prompts is None else with_samples(stage.engine(steps))
            outcome = fit_observed(make, engine, run, "lora", tracked, quiet=request.quiet)
    if outcome.stopped:
        return Finetuned(None, outcome.step, latents, outcome.checkpoint)
    with open_checkpoint(str(run), outcome.step) as checkpoint:
        adapter = save_adapter(checkpoint.better_weights(), request.lora, request.model, request.output / "adapter")
    return Finetuned(adapter, outcome.step, latents, outcome.checkpoint)


@dataclass(frozen=True)
class LoraMaker:
    """Makes an adapter's trainable around a stage's, in any process."""

    stage: StageMaker
    settings: LoraSettings

    def __call__(self) -> LoraStage:
        return LoraStage(self.stage(), self.settings)


def _stage(request: Request, preset: Preset) -> Stage:
    """The recipe at the preset's size, for the branches that the model has, with the adapter that learns."""
    config = stored_config(TransformerConfig, request.model / TRANSFORMER)
    channels = {"video": config.video_channels, "audio": config.audio_channels}
    streams = [name for name, count in channels.items() if count]
    gpus = () if request.gpu is None else ("gpus_per_worker=1",)
    stage = load_stage(request.recipe, preset, [f"streams=[{', '.join(streams)}]", *gpus, *request.settings])
    shapes = adapter_shapes(meta_model(network_config(preset, stage.branches)), request.lora.rank)
    return replace(stage, adapter=sum(rows * columns for rows, columns in shapes.values()))


def _plan(stage: Stage, machine: ClusterSpec, steps: int, mix: Mapping[str, float]) -> StagePlan:
    """What `steps` of these tasks take."""
    recipe = stage.recipe.model_copy(update={"steps": steps})
    return plan_stage(replace(stage, recipe=recipe, mix=shares(mix)), machine)


def _claim(request: Request) -> None:
    """Note which model the output is of, and the adapter's size; ConfigError where it is of another one."""
    record = request.output / RECORD
    now: dict[str, Any] = {
        "transformer": saved_identity(request.model / TRANSFORMER),
        "lora": request.lora.model_dump(),
    }
    try:
        read = json.loads(record.read_text()) if record.is_file() else now
        known = {"transformer": read["transformer"], "lora": read.get("lora", now["lora"])}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{record} is damaged ({error!r}): give another --output, or delete it") from error
    if known["transformer"] != now["transformer"]:
        raise ConfigError(
            f"{request.output} holds an adapter of the transformer {known['transformer']}, and {request.model} is "
            f"{now['transformer']}: give the model that it was begun with, or another --output"
        )
    if known["lora"] != now["lora"]:
        begun = " ".join(f"--{name} {value:g}" for name, value in known["lora"].items())
        raise ConfigError(
            f"{request.output} holds an adapter that was begun with {begun}: give these, or another --output"
        )
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps({"model": str(request.model), **now}) + "\n")
