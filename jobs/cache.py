"""Curated shards in, latent shards out: every clip encoded once, so that training holds no codec and no encoder.

    python jobs/cache.py --dataset data/datasets/default --output data --preset tiny --components data/components
    ray job submit -- python jobs/cache.py --dataset s3://bucket/data/datasets/sft --output s3://bucket/data \\
        --preset v4 --stage sft-1 --components /models/v4 --gpus-per-worker 1

    python jobs/cache.py --output runs/train --prune              which caches no stage refers to; --remove removes them

The same command goes on from what is committed. Any setting of the spec can be given as key=value, such as
`sizes=[480,720]`, `seconds=[3,5]` or `dtype=bf16`. jobs/train.py makes the caches that a stage needs by itself.
"""

import argparse
import sys
from collections.abc import Sequence

from model.checksums import CheckpointError
from model.config import load_preset
from pipelines.training.curriculum.order import CurriculumError
from pipelines.training.curriculum.recipe import STAGES
from pipelines.training.curriculum.resolve import load_stage
from pipelines.training.latents.cache import REJECTS, CacheSummary, cache
from pipelines.training.latents.index import LatentError
from pipelines.training.latents.job import CacheJob, CachePlan, plan_cache
from pipelines.training.latents.spec import LatentSpec
from pipelines.training.stages.prune import FoundCache, find_caches, remove
from skyreels.command_line import exit_status, parse
from skyreels.config import apply_overrides, build, load_config
from skyreels.storage import join, require_writable

_EXPECTED = (CheckpointError, CurriculumError, LatentError)


def main(argv: Sequence[str] | None = None) -> int:
    """0 when it ended well, 1 with the reason on stderr, 2 for wrong arguments."""
    parser = _parser()
    arguments, settings = parse(parser, argv)
    if (arguments.remove or arguments.unfinished) and not arguments.prune:
        parser.error("--remove and --unfinished go with --prune")
    return exit_status(
        lambda: _run(arguments, settings),
        _EXPECTED,
        stopped="stopped; the same command goes on from what is committed",
    )


def _run(arguments: argparse.Namespace, settings: Sequence[str]) -> int:
    if arguments.prune:
        _prune(arguments.output, removing=arguments.remove, unfinished=arguments.unfinished)
        return 0
    job = _job(arguments, settings)
    if arguments.dry_run:
        _print_plan(plan_cache(job))
    else:
        require_writable(arguments.output)
        _print(cache(job, replay_rejects=arguments.replay_rejects, quiet=arguments.quiet))
    return 0


def _job(arguments: argparse.Namespace, settings: Sequence[str]) -> CacheJob:
    preset = load_preset(arguments.preset)
    if arguments.stage is not None:
        values = load_stage(arguments.stage, preset).latents.model_dump()
        spec = build(LatentSpec, apply_overrides(values, settings), origin=f"stage {arguments.stage}")
    else:
        spec = load_config(LatentSpec, arguments.spec, settings)
    return CacheJob(
        output=arguments.output,
        spec=spec,
        preset=preset,
        dataset=arguments.dataset,
        pairs=arguments.pairs,
        components=arguments.components,
        workers=arguments.workers,
        cpus_per_worker=arguments.cpus_per_worker,
        gpus_per_worker=arguments.gpus_per_worker,
        max_unreadable=arguments.max_unreadable,
    )


def _prune(output: str, *, removing: bool, unfinished: bool) -> None:
    """List all caches; remove, where that is asked for, those that no stage refers to."""
    caches = find_caches(output)
    unused = [found for found in caches if not found.stages and (found.finished or unfinished)]
    for found in caches:
        print(f"{found.size / 2**20:10.1f} MiB  {found.name}  {_use(found)}")
    total = sum(found.size for found in unused) / 2**20
    if not removing:
        print(f"{len(unused)} of {len(caches)} caches ({total:.1f} MiB) would be removed by --prune --remove")
        return
    for found in unused:
        remove(found)
    print(f"removed {len(unused)} of {len(caches)} caches ({total:.1f} MiB)")


def _use(found: FoundCache) -> str:
    if found.stages:
        return f"read by {', '.join(found.stages)}"
    return "unused" if found.finished else "unused and not finished; a job may be making it (--unfinished)"


def _print_plan(plan: CachePlan) -> None:
    spec = plan.job.spec
    parts = plan.latents.parts
    print(f"cache     {plan.location}")
    print(f"spec      {spec.name}: sizes {list(spec.sizes)}, seconds {list(spec.seconds)}, {spec.fps:g} fps")
    print(f"made by   {', '.join(f'{name} {value}' for name, value in plan.identities.model_dump().items())}")
    print(f"samples   {plan.latents.samples}; {len(plan.latents.misfits)} clips fit no bucket")
    print(f"parts     {len(parts)}, of which {len(plan.remaining)} to do")
    for bucket in plan.buckets:
        samples = sum(len(part.samples) for part in parts if part.bucket == bucket)
        print(
            f"  {samples:6d}  {bucket.name}  {bucket.width} x {bucket.height}"
            if bucket.size
            else f"  {samples:6d}  {bucket.name}"
        )


def _print(summary: CacheSummary) -> None:
    speed = summary.new_samples / summary.cpu_s if summary.cpu_s else 0.0
    print(
        f"\n{summary.samples} samples, {summary.new_samples} of them new, in {summary.wall_s:.1f} s"
        + (f" ({speed:.1f} samples per CPU second)" if speed else "")
    )
    for bucket, samples in summary.buckets.items():
        print(f"  {samples:6d}  {bucket}")
    for reason, count in summary.rejected.items():
        print(f"  {count:6d}  left out, {reason}")
    print(f"latents   {summary.location}")
    print(f"rejects   {join(summary.location, REJECTS)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jobs/cache.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", help="a dataset of jobs/curate.py: folder or s3://…")
    parser.add_argument("--pairs", help="edit pairs: a folder that `python -m pipelines.synthesis --pairs N` filled")
    parser.add_argument(
        "--output", required=True, help="folder or s3://… below which latents/<name>-<identity> is made"
    )
    parser.add_argument("--preset", default="tiny", help="tiny, small, base, v4 or a YAML file (default %(default)s)")
    parser.add_argument(
        "--components", help="folder with video_codec/, audio_codec/, encoder/; what it lacks is the preset's"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--spec", help="a YAML file with the settings of LatentSpec")
    which.add_argument("--stage", choices=STAGES, metavar="STAGE", help="what this stage of the curriculum reads")
    parser.add_argument(
        "--workers", type=int, help="actors; 0: in this process (default: what the cluster has room for)"
    )
    parser.add_argument("--cpus-per-worker", type=float, default=1.0, help="default %(default)s")
    parser.add_argument("--gpus-per-worker", type=float, default=0.0, help="default %(default)s: encode on CPUs")
    parser.add_argument(
        "--max-unreadable",
        type=float,
        default=0.05,
        help="share of samples that may be unreadable (default %(default)s)",
    )
    parser.add_argument(
        "--replay-rejects", action="store_true", help="try the samples that could not be read once more"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument(
        "--prune", action="store_true", help="make nothing; list the caches and which stages in --output refer to them"
    )
    parser.add_argument("--remove", action="store_true", help="with --prune: remove those that none refers to")
    parser.add_argument(
        "--unfinished", action="store_true", help="with --prune: also those that are not finished, if no job makes them"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


if __name__ == "__main__":
    sys.exit(main())
