"""The caches that a stage reads: one per dataset, found where another stage has made it, else made now."""

from pathlib import PurePosixPath

from pipelines.training.curriculum.request import Climb
from pipelines.training.curriculum.resolve import Stage
from pipelines.training.data.datasets import Datasets
from pipelines.training.latents.job import CacheJob, CachePlan, NothingFits, plan_cache
from pipelines.training.latents.run import CacheSummary, complete
from pipelines.training.latents.union import Caches
from pipelines.training.stages.run_record import note_run


def make_caches(climb: Climb, stage: Stage, datasets: Datasets) -> Caches:
    """Where they are: a folder, or several by the names of their datasets; a dataset that gives no sample is told.

    The stage's folder names them from before they are made. Raises NothingFits where no dataset has a sample that
    fits, LatentError where a cache cannot be made.
    """
    plans, empty = _plans(climb, stage, datasets)
    if not plans:
        raise NothingFits("\n".join(str(error) for error in empty.values()))
    names = {name: PurePosixPath(plan.location).name for name, plan in plans.items()}
    note_run(climb.folder(stage.name), caches=names)
    for name, error in empty.items():
        print(f"latents   none of {name}: {error}")
    for plan in plans.values():
        _tell(complete(plan, quiet=climb.request.quiet))
    locations = {name: plan.location for name, plan in plans.items()}
    return locations if len(datasets.names) > 1 else next(iter(locations.values()))


def _plans(climb: Climb, stage: Stage, datasets: Datasets) -> tuple[dict[str, CachePlan], dict[str, NothingFits]]:
    """By dataset, what is to be cached, or why nothing of it is. Pairs are cached with the first dataset."""
    pairs = climb.request.pairs if "pair" in stage.latents.kinds else None
    plans: dict[str, CachePlan] = {}
    empty: dict[str, NothingFits] = {}
    for place, (name, location) in enumerate(datasets.locations.items()):
        job = CacheJob(
            output=str(climb.request.output),
            spec=stage.latents,
            preset=climb.preset,
            dataset=location,
            pairs=None if place else pairs,
            components=str(climb.components),
            workers=stage.recipe.workers and None,
            gpus_per_worker=stage.recipe.gpus_per_worker,
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
