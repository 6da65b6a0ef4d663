"""Run the stages of a request: latents, plan, training, export, record; one MLflow run each, over all restarts."""

import dataclasses
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from model.components import GenerationConfig
from pipelines.training.clips import open_dataset
from pipelines.training.codec_stage import codecs_learn, finish_codecs
from pipelines.training.cost import Samples, summary
from pipelines.training.curriculum import Climb, Request, check
from pipelines.training.export import export_refiner, export_transformer
from pipelines.training.latents.index import LatentIndex, open_latents
from pipelines.training.latents.job import CacheJob
from pipelines.training.latents.run import cache
from pipelines.training.makers import CodecMaker, StageMaker
from pipelines.training.network import network_config
from pipelines.training.observe import Observer
from pipelines.training.recipe import stages_of
from pipelines.training.resolve import Stage, steps_for
from pipelines.training.warm_start import warm_start
from skyreels import cluster, tracking
from skyreels.training.checkpoints import open_checkpoint
from skyreels.training.run import Outcome, fit
from skyreels.training.trainable import Trainable

RUN_FILE = "run.json"


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
    dataset = climb.dataset(stage)
    fingerprint = open_dataset(dataset).fingerprint
    with _tracked(climb, stage, {"dataset": dataset}) as run:
        if not codecs_learn(climb.preset):
            finish_codecs({}, stage, dataset, climb.components)
            _finish(climb, stage, 0, climb.components, fingerprint, run)
            return True
        maker = CodecMaker(stage, dataset)
        outcome = _fit(climb, stage, maker, maker().steps, run)
        if outcome.stopped:
            return False
        with open_checkpoint(str(climb.folder(stage.name))) as checkpoint:
            finish_codecs(checkpoint.weights(ema=checkpoint.has_ema), stage, dataset, climb.components)
        _finish(climb, stage, outcome.step, climb.components, fingerprint, run)
    return True


def _run_transformer(climb: Climb, stage: Stage) -> bool:
    """Cache what the stage learns from, say what it will cost, train, export."""
    parents = climb.ladder.parents(stage.name)
    starts = tuple(str(Path(parent.export) / "transformer") for name, parent in parents.items() if name != "codecs")
    warm_start(network_config(climb.preset, stage.branches), starts)  # says now whether the weights fit
    location = _latents(climb, stage)
    maker = StageMaker(stage, location, starts, str(climb.components))
    index = open_latents(location)
    steps = steps_for(stage, maker().sampler)
    print(summary(climb.plan(stage, _held(index))), flush=True)
    with _tracked(climb, stage, {"latents": location, "data_fingerprint": index.fingerprint}) as run:
        outcome = _fit(climb, stage, maker, steps, run)
        if outcome.stopped:
            return False
        export = _export(climb, stage, starts)
        _finish(climb, stage, outcome.step, export, index.fingerprint, run)
    return True


def _latents(climb: Climb, stage: Stage) -> str:
    """The cache that the stage reads, made or completed."""
    request = climb.request
    pairs = request.pairs if "pair" in stage.latents.kinds else None
    job = CacheJob(
        output=str(request.output),
        spec=stage.latents,
        preset=climb.preset,
        dataset=climb.dataset(stage),
        pairs=pairs,
        components=str(climb.components),
        workers=stage.recipe.workers and None,
        gpus_per_worker=stage.recipe.gpus_per_worker,
    )
    summary = cache(job, quiet=request.quiet)
    held = ", ".join(f"{count} {bucket}" for bucket, count in summary.buckets.items())
    print(f"latents   {summary.location}: {held}")
    if summary.rejected:
        reasons = ", ".join(f"{count} {reason}" for reason, count in summary.rejected.items())
        print(f"          not in it: {reasons} (rejects.parquet says what to do)")
    return summary.location


def _held(index: LatentIndex) -> Samples:
    """What a cache holds, as plans count it."""
    entries = [entry for bucket in index.buckets.values() for entry in bucket]
    kinds = Counter(entry.kind for entry in entries)
    hours = sum(entry.seconds for entry in entries if entry.kind == "audio") / 3600
    return Samples(kinds["image"], kinds["video"] + kinds["pair"], hours)


def _fit(climb: Climb, stage: Stage, make: Callable[[], Trainable], steps: int, run: tracking.TrackedRun) -> Outcome:
    folder = climb.folder(stage.name)
    with Observer(run, folder, stage.name, steps, quiet=climb.request.quiet) as observe:
        return fit(make, stage.engine(steps), str(folder), observe)


def _export(climb: Climb, stage: Stage, starts: tuple[str, ...]) -> Path:
    """Averaged weights, where there are any, as a generator."""
    folder = climb.folder(stage.name)
    network = network_config(climb.preset, stage.branches)
    with open_checkpoint(str(folder)) as checkpoint:
        weights = checkpoint.weights(ema=checkpoint.has_ema)
        if stage.kind == "refiner":
            return export_refiner(weights, network, Path(starts[0]).parent, folder / "export")
        generation = GenerationConfig.of(climb.preset)
        sampling = dataclasses.replace(generation.sampling, keyframes="keyframes" in stage.mix)
        generation = dataclasses.replace(generation, sampling=sampling)
        return export_transformer(weights, network, generation, climb.components, folder / "export")


def _finish(climb: Climb, stage: Stage, step: int, export: Path, data: str, run: tracking.TrackedRun) -> None:
    sha = tracking.git_sha()
    climb.ladder.mark_finished(stage.name, step=step, export=str(export), data=data, git_sha=sha)
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
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / RUN_FILE
    known = json.loads(record.read_text())["mlflow_run"] if record.is_file() else ""
    params = {f"recipe.{name}": value for name, value in stage.recipe.model_dump(mode="json").items()}
    params |= {"stage": stage.name, "preset": climb.preset.name, "output": str(climb.request.output), **facts}
    with tracking.track(
        f"training/{stage.name}",
        run_name=f"{stage.name}-{climb.preset.name}",
        params=params,
        enabled=climb.request.tracked,
        run_id=known,
    ) as run:
        record.write_text(json.dumps({"mlflow_run": run.run_id}) + "\n")
        yield run


def _point(link: Path, target: Path) -> None:
    """Make `link` lead to `target`, in one step."""
    partial = link.with_name(f".{link.name}-{uuid.uuid4().hex[:8]}")
    partial.symlink_to(os.path.relpath(target, link.parent))
    partial.replace(link)
