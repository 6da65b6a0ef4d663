"""Run the stages of a request: latents, plan, training, export, record; one MLflow run each, over all restarts."""

import dataclasses
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from model import checksums
from model.components import GenerationConfig
from pipelines.training.caching import make_caches
from pipelines.training.clips import open_dataset
from pipelines.training.codec_stage import codecs_learn, finish_codecs
from pipelines.training.cost import Samples, summary
from pipelines.training.curriculum import Climb, Request, check
from pipelines.training.datasets import together
from pipelines.training.export import export_refiner, export_transformer
from pipelines.training.latents.index import LatentIndex
from pipelines.training.latents.union import Caches, LatentUnion, open_caches
from pipelines.training.makers import CodecMaker, StageMaker
from pipelines.training.network import network_config
from pipelines.training.observe import Observer
from pipelines.training.recipe import stages_of
from pipelines.training.resolve import Stage, steps_for
from pipelines.training.run_record import note_run, read_run
from pipelines.training.warm_start import warm_start
from skyreels import cluster, leftovers, tracking
from skyreels.training.checkpoints import open_checkpoint
from skyreels.training.run import Outcome, fit
from skyreels.training.trainable import Trainable


def train(request: Request) -> bool:
    """Run every stage that is to run. False where it was asked to stop before the end; the same request goes on."""
    climb = Climb.of(request)
    stages = climb.stages
    if not stages:
        print(f"{request.stage} is finished in {request.output}; --resume never trains it anew")
        return True
    check(climb, stages)
    if request.fresh:
        for name in set(stages) & set(stages_of(request.stage)):
            shutil.rmtree(climb.folder(name), ignore_errors=True)
    print(f"stages to run: {', '.join(stages)}")
    with cluster.connect():
        for place, name in enumerate(stages, 1):
            stage = climb.stage(name)
            print(f"\n{name} ({place} of {len(stages)})", flush=True)
            finished = _run_codecs(climb, stage) if stage.kind == "codecs" else _run_transformer(climb, stage)
            if not finished:
                print(f"{name} was stopped; the same command goes on from its last checkpoint")
                return False
    print(f"\nmodel     {request.output / 'model'}")
    return True


def _run_codecs(climb: Climb, stage: Stage) -> bool:
    """Train the codecs, or measure those that come with weights, and lay out the folder of components."""
    datasets = climb.datasets(stage)
    note_run(climb.folder(stage.name), caches={})
    data = {name: open_dataset(location).fingerprint for name, location in datasets.locations.items()}
    with _tracked(climb, stage, {"datasets": str(datasets)}) as run:
        if not codecs_learn(climb.preset):
            finish_codecs({}, stage, datasets, climb.components)
            _finish(climb, stage, 0, climb.components, data, run)
            return True
        maker = CodecMaker(stage, datasets)
        outcome = _fit(climb, stage, maker, maker().steps, run)
        if outcome.stopped:
            return False
        with open_checkpoint(str(climb.folder(stage.name)), outcome.step) as checkpoint:
            finish_codecs(checkpoint.weights(ema=checkpoint.has_ema), stage, datasets, climb.components)
        _finish(climb, stage, outcome.step, climb.components, data, run)
    return True


def _run_transformer(climb: Climb, stage: Stage) -> bool:
    """Cache what the stage learns from, say what it will cost, train, export."""
    parents = climb.ladder.parents(stage.name)
    starts = tuple(str(Path(parent.export) / "transformer") for name, parent in parents.items() if name != "codecs")
    for folder in starts:
        checksums.check(folder)
    warm_start(network_config(climb.preset, stage.branches), starts)  # says now whether the weights fit
    datasets = climb.datasets(stage)
    caches = make_caches(climb, stage, datasets)
    maker = StageMaker(stage, caches, starts, str(climb.components))
    index = open_caches(caches)
    data = index.fingerprints if isinstance(index, LatentUnion) else {datasets.names[0]: index.fingerprint}
    steps = steps_for(stage, maker().sampler)
    held = _held(index)
    print(f"data      {held.images} pictures, {held.clips} clips, {held.hours:.2g} h of sound from {datasets.in_words}")
    print(summary(climb.plan(stage, held)), flush=True)
    facts = {"datasets": str(datasets), "latents": _in_words(caches), "data_fingerprint": index.fingerprint}
    with _tracked(climb, stage, facts) as run:
        outcome = _fit(climb, stage, maker, steps, run)
        if outcome.stopped:
            return False
        export = _export(climb, stage, starts, outcome.step)
        _finish(climb, stage, outcome.step, export, data, run)
    return True


def _in_words(caches: Caches) -> str:
    return caches if isinstance(caches, str) else ", ".join(caches.values())


def _held(index: LatentIndex | LatentUnion) -> Samples:
    """What caches hold, as plans count it."""
    entries = [entry for bucket in index.buckets.values() for entry in bucket]
    kinds = Counter(entry.kind for entry in entries)
    hours = sum(entry.seconds for entry in entries if entry.kind == "audio") / 3600
    return Samples(kinds["image"], kinds["video"] + kinds["pair"], hours)


def _fit(climb: Climb, stage: Stage, make: Callable[[], Trainable], steps: int, run: tracking.TrackedRun) -> Outcome:
    folder = climb.folder(stage.name)
    leftovers.sweep(folder)
    with Observer(run, folder, stage.name, steps, quiet=climb.request.quiet) as observe:
        return fit(make, stage.engine(steps), str(folder), observe)


def _export(climb: Climb, stage: Stage, starts: tuple[str, ...], step: int) -> Path:
    """Averaged weights, where there are any, as a generator."""
    folder = climb.folder(stage.name)
    network = network_config(climb.preset, stage.branches)
    with open_checkpoint(str(folder), step) as checkpoint:
        weights = checkpoint.weights(ema=checkpoint.has_ema)
        if stage.kind == "refiner":
            return export_refiner(weights, network, Path(starts[0]).parent, folder / "export")
        generation = GenerationConfig.of(climb.preset)
        sampling = dataclasses.replace(generation.sampling, keyframes="keyframes" in stage.mix)
        generation = dataclasses.replace(generation, sampling=sampling)
        return export_transformer(weights, network, generation, climb.components, folder / "export")


def _finish(
    climb: Climb, stage: Stage, step: int, export: Path, data: Mapping[str, str], run: tracking.TrackedRun
) -> None:
    """Record and register it; `data` are fingerprints of what it learned from, by dataset."""
    climb.ladder.mark_finished(
        stage.name, step=step, export=str(export), data=together(data), datasets=data, git_sha=tracking.git_sha()
    )
    version = run.register(f"skyreels-{climb.preset.name}", export.as_uri(), (stage.name,))
    if stage.kind != "codecs":
        _point(climb.request.output / "model", export)
    folder = climb.folder(stage.name)
    print(f"steps     {step}, checkpoints in {folder / 'checkpoints'}\nexport    {export}")
    if (folder / "samples").is_dir():
        print(f"samples   {folder / 'samples'}")
    if run.run_id:
        print(f"run       {run.run_id} in {run.uri}" + (f", version {version}" if version else ""))


@contextmanager
def _tracked(climb: Climb, stage: Stage, facts: dict[str, str]) -> Iterator[tracking.TrackedRun]:
    """The MLflow run of a stage: the same one however often it is started."""
    folder = climb.folder(stage.name)
    params = {f"recipe.{name}": value for name, value in stage.recipe.model_dump(mode="json").items()}
    params |= {"stage": stage.name, "preset": climb.preset.name, "output": str(climb.request.output), **facts}
    with tracking.track(
        f"training/{stage.name}",
        run_name=f"{stage.name}-{climb.preset.name}",
        params=params,
        enabled=climb.request.tracked,
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
