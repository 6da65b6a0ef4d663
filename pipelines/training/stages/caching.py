"""The caches that a stage reads: one per dataset, found where another stage has made it, else made now."""

from pathlib import PurePosixPath

from pipelines.training.curriculum.request import TrainingPlan
from pipelines.training.curriculum.resolve import Stage
from pipelines.training.data.datasets import Datasets
from pipelines.training.latents.cache import CacheSummary, complete
from pipelines.training.latents.job import CacheJob, CachePlan, NothingFits, plan_cache
from pipelines.training.latents.union import Caches
from pipelines.training.stages.run_record import note_run


def make_caches(training: TrainingPlan, stage: Stage, datasets: Datasets) -> Caches:
    """Where they are: a folder, or several by the names of their datasets; a dataset that gives no sample is told.

    The stage's folder names them from before they are made. Raises NothingFits where no dataset has a sample that
    fits, LatentError where a cache cannot be made.
    """
    plans, empty = _plans(training, stage, datasets)
    if not plans:
        raise NothingFits("\n".join(str(error) for error in empty.values()))
    names = {name: PurePosixPath(plan.location).name for name, plan in plans.items()}
    note_run(training.folder(stage.name), caches=names)
    for name, error in empty.items():
        print(f"latents   none of {name}: {error}")
    for plan in plans.values():
        _tell(complete(plan, quiet=training.request.quiet))
    locations = {name: plan.location for name, plan in plans.items()}
    return locations if len(datasets.names) > 1 else next(iter(locations.values()))


def _plans(
    training: TrainingPlan, stage: Stage, datasets: Datasets
) -> tuple[dict[str, CachePlan], dict[str, NothingFits]]:
    """By dataset, what is to be cached, or why nothing of it is. Pairs are cached with the first dataset."""
    pairs = training.request.pairs if "pair" in stage.latents.kinds else None
    plans: dict[str, CachePlan] = {}
    empty: dict[str, NothingFits] = {}
    for place, (name, location) in enumerate(datasets.locations.items()):
        job = CacheJob.of_stage(
            stage, str(training.request.output), location, str(training.components), None if place else pairs
        )
        try:
            plans[name] = plan_cache(job)
        except NothingFits as error:
            empty[name] = error
    return plans, empty


def _tell(summary: CacheSummary) -> None:
    held = ", ".join(f"{count} {bucket}" for bucket, count in summary.buckets.items())
    print(f"latents   {summary.location}: {held}")
    if summary.rejected:
        reasons = ", ".join(f"{count} {reason}" for reason, count in summary.rejected.items())
        print(f"          not in it: {reasons} (rejects.parquet says what to do)")
