"""Run the stages of a request: latents, plan, training, export, record; one MLflow run each, over all restarts."""

import dataclasses
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import Tensor

from model import checksums
from model.config import GenerationConfig, Trained
from pipelines.dataset.caption_parts import FORMS
from pipelines.dataset.reader import open_dataset
from pipelines.training.cost import Samples, summary
from pipelines.training.curriculum.recipe import stages_of
from pipelines.training.curriculum.request import Request, TrainingPlan, check
from pipelines.training.curriculum.resolve import Stage, steps_for
from pipelines.training.data.datasets import together
from pipelines.training.latents.index import LatentIndex
from pipelines.training.latents.spec import window_seconds
from pipelines.training.latents.union import Caches, LatentUnion, open_caches
from pipelines.training.learners.codecs import CodecMaker, codecs_learn, finish_codecs
from pipelines.training.learners.network import network_config
from pipelines.training.learners.transformer import StageMaker
from pipelines.training.learners.warm_start import warm_start
from pipelines.training.stages.asked import lay_out_prompts, stage_spec, with_samples
from pipelines.training.stages.caching import make_caches
from pipelines.training.stages.export import export_refiner, export_transformer
from pipelines.training.stages.observe import fit_observed
from pipelines.training.stages.run_record import note_run, read_run
from skyreels import cluster, leftovers, tracking
from skyreels.training.checkpoints import OpenCheckpoint, open_checkpoint
from skyreels.training.fit import Outcome
from skyreels.training.held_out import AVERAGED, START, TRAINED
from skyreels.training.trainable import Trainable


def train(request: Request) -> bool:
    """Run every stage that is to run. False where it was asked to stop before the end; the same request goes on."""
    training = TrainingPlan.of(request)
    stages = training.stages
    if not stages:
        print(f"{request.stage} is finished in {request.output}; --resume never trains it anew")
        return True
    check(training, stages)
    if request.fresh:
        for name in set(stages) & set(stages_of(request.stage)):
            shutil.rmtree(training.folder(name), ignore_errors=True)
    print(f"stages to run: {', '.join(stages)}")
    on_ray = any(training.stage(name).recipe.workers for name in stages)
    with cluster.connect() if on_ray else nullcontext():
        for place, name in enumerate(stages, 1):
            stage = training.stage(name)
            print(f"\n{name} ({place} of {len(stages)})", flush=True)
            finished = _run_codecs(training, stage) if stage.kind == "codecs" else _run_transformer(training, stage)
            if not finished:
                print(f"{name} was stopped; the same command goes on from its last checkpoint")
                return False
    if (newest := request.output / "model").exists():  # after the codecs alone there is none yet
        print(f"\nmodel     {newest}")
    return True


def _run_codecs(training: TrainingPlan, stage: Stage) -> bool:
    """Train the codecs, or measure those that come with weights, and lay out the folder of components."""
    datasets = training.datasets(stage)
    note_run(training.folder(stage.name), caches={})
    data = {name: open_dataset(location).fingerprint for name, location in datasets.locations.items()}
    with _tracked(training, stage, {"datasets": str(datasets)}) as run:
        if not codecs_learn(training.preset):
            finish_codecs({}, stage, datasets, training.components)
            _finish(training, stage, 0, training.components, data, run, Compared())
            return True
        maker = CodecMaker(stage, datasets)
        outcome = _fit(training, stage, maker, maker().steps, run)
        if outcome.stopped:
            return False
        with open_checkpoint(str(training.folder(stage.name)), outcome.step) as checkpoint:
            finish_codecs(checkpoint.better_weights(), stage, datasets, training.components)
            compared = Compared.of(checkpoint)
        _finish(training, stage, outcome.step, training.components, data, run, compared)
    return True


def _run_transformer(training: TrainingPlan, stage: Stage) -> bool:
    """Cache what the stage learns from, say what it will cost, train, export."""
    parents = training.curriculum.parents(stage.name)
    starts = tuple(str(Path(parent.export) / "transformer") for name, parent in parents.items() if name != "codecs")
    for folder in starts:
        checksums.check(folder)
    warm_start(network_config(training.preset, stage.branches), starts)  # says now whether the weights fit
    datasets = training.datasets(stage)
    caches = make_caches(training, stage, datasets)
    prompts = _prompts(training, stage)
    maker = StageMaker(stage, caches, starts, str(training.components), prompts)
    index = open_caches(caches)
    data = index.fingerprints if isinstance(index, LatentUnion) else {datasets.names[0]: index.fingerprint}
    steps = steps_for(stage, maker().sampler)
    held = _held(index)
    print(f"data      {held.images} pictures, {held.clips} clips, {held.hours:.2g} h of sound from {datasets.in_words}")
    print(summary(training.plan(stage, held)), flush=True)
    facts = {"datasets": str(datasets), "latents": _in_words(caches), "data_fingerprint": index.fingerprint}
    with _tracked(training, stage, facts) as run:
        outcome = _fit(training, stage, maker, steps, run, sampled=prompts is not None)
        if outcome.stopped:
            return False
        with open_checkpoint(str(training.folder(stage.name)), outcome.step) as checkpoint:
            export = _export(training, stage, starts, checkpoint.better_weights())
            compared = Compared.of(checkpoint)
        _finish(training, stage, outcome.step, export, data, run, compared)
    return True


def _in_words(caches: Caches) -> str:
    return caches if isinstance(caches, str) else ", ".join(caches.values())


def _held(index: LatentIndex | LatentUnion) -> Samples:
    """What caches hold, as plans count it."""
    counts: Counter[str] = Counter()
    for name, shape in index.shapes.items():
        counts[shape.kind] += len(index.buckets[name])
    hours = sum(len(index.buckets[name]) * s.seconds for name, s in index.shapes.items() if s.kind == "audio") / 3600
    return Samples(counts["image"], counts["video"] + counts["pair"], hours)


def _fit(
    training: TrainingPlan,
    stage: Stage,
    make: Callable[[], Trainable],
    steps: int,
    run: tracking.TrackedRun,
    *,
    sampled: bool = False,
) -> Outcome:
    folder = training.folder(stage.name)
    leftovers.sweep(folder)
    engine = with_samples(stage.engine(steps)) if sampled else stage.engine(steps)
    return fit_observed(make, engine, folder, stage.name, run, quiet=training.request.quiet)


def _prompts(training: TrainingPlan, stage: Stage) -> str | None:
    """The folder of prepared calls; a refiner makes nothing of words alone."""
    if training.request.prompts is None or stage.kind == "refiner":
        return None
    spec = stage_spec(stage, training.components, generation_of(stage))
    return lay_out_prompts(training.request.prompts, spec, training.folder(stage.name))


def _export(training: TrainingPlan, stage: Stage, starts: tuple[str, ...], weights: Mapping[str, Tensor]) -> Path:
    """The weights as a generator."""
    folder = training.folder(stage.name)
    network = network_config(training.preset, stage.branches)
    if stage.kind == "refiner":
        return export_refiner(weights, network, Path(starts[0]).parent, folder / "export")
    return export_transformer(weights, network, generation_of(stage), training.components, folder / "export")


def generation_of(stage: Stage) -> GenerationConfig:
    """How a stage's model is used when the caller does not say."""
    usual = GenerationConfig.of(stage.preset)
    sampling = dataclasses.replace(usual.sampling, keyframes="keyframes" in stage.mix)
    return dataclasses.replace(usual, sampling=sampling, trained=trained_on(stage))


def trained_on(stage: Stage) -> Trained:
    """What a stage's model is told of itself."""
    seconds = [window_seconds(length, stage.latents, stage.preset.video) for length in stage.lengths]
    return Trained(
        captions=tuple(form for form in FORMS if stage.settings.captions.get(form)),
        sizes=tuple(float(side) for side in sorted({min(stage.sizes), max(stage.sizes)})) if stage.sizes else (),
        seconds=tuple(sorted({min(seconds), max(seconds)})),
        fps=stage.recipe.fps,
    )


@dataclass(frozen=True)
class Compared:
    """Losses on held-out samples by the name of the weights, and which of them are exported."""

    losses: Mapping[str, float] = field(default_factory=dict)
    exported: Literal["trained", "averaged", ""] = ""

    @classmethod
    def of(cls, checkpoint: OpenCheckpoint) -> "Compared":
        return cls(checkpoint.held_out, checkpoint.better)

    @property
    def in_words(self) -> str:
        """Such as `trained 1.61, averaged 1.62, at the start 1.82: trained are exported`."""
        said = [f"{name} {self.losses[name]:.4g}" for name in (TRAINED, AVERAGED) if name in self.losses]
        said += [f"at the start {self.losses[START]:.4g}"] if START in self.losses else []
        worse = START in self.losses and self.losses[START] < self.losses.get(self.exported, math.inf)
        warning = "; that is no better than the start: train longer, or at a lower rate" if worse else ""
        return f"{', '.join(said)}: {self.exported} weights are exported{warning}"


def _finish(
    training: TrainingPlan,
    stage: Stage,
    step: int,
    export: Path,
    data: Mapping[str, str],
    run: tracking.TrackedRun,
    compared: Compared,
) -> None:
    """Record and register it; `data` are fingerprints of what it learned from, by dataset."""
    training.curriculum.mark_finished(
        stage.name,
        step=step,
        export=str(export),
        data=together(data),
        datasets=data,
        git_sha=tracking.git_sha(),
        held_out=compared.losses,
        exported=compared.exported,
    )
    run.tags({"exported": compared.exported})
    version = run.register(f"skyreels-{training.preset.name}", export.as_uri(), (stage.name,))
    if stage.kind != "codecs":
        _point(training.request.output / "model", export)
    folder = training.folder(stage.name)
    print(f"steps     {step}, checkpoints in {folder / 'checkpoints'}\nexport    {export}")
    if compared.losses:
        print(f"held out  {compared.in_words}")
    if (folder / "samples").is_dir():
        print(f"samples   {folder / 'samples'}")
    if run.run_id:
        print(f"run       {run.run_id} in {run.uri}" + (f", version {version}" if version else ""))


@contextmanager
def _tracked(training: TrainingPlan, stage: Stage, facts: dict[str, str]) -> Iterator[tracking.TrackedRun]:
    """The MLflow run of a stage: the same one however often it is started."""
    folder = training.folder(stage.name)
    params = {f"recipe.{name}": value for name, value in stage.recipe.model_dump(mode="json").items()}
    params |= {"stage": stage.name, "preset": training.preset.name, "output": str(training.request.output), **facts}
    with tracking.track(
        f"training/{stage.name}",
        run_name=f"{stage.name}-{training.preset.name}",
        params=params,
        enabled=training.request.tracked,
        run_id=read_run(folder).mlflow_run,
    ) as run:
        note_run(folder, mlflow_run=run.run_id)
        yield run


def _point(link: Path, target: Path) -> None:
    """Make `link` lead to `target`, in one step."""
    leftovers.sweep(link.parent, link.name, below=False)
    partial = link.with_name(leftovers.temporary_name(link.name))
    partial.symlink_to(os.path.relpath(target, link.parent))
    partial.replace(link)
