"""Raw media in, training shards out.

    python jobs/curate.py --input films/ --output data                    every clip of films/, with the default recipe
    ray job submit -- python jobs/curate.py --input films/ --output s3://bucket/data --recipe joint
    python jobs/curate.py refilter --output data --recipe sft             other thresholds, nothing decoded again
    python jobs/curate.py takedown --output data --source '*/clip-17.mp4' remove a source from everything
    python jobs/curate.py verify --output data                            compare every byte, and mend what can be

Any setting of the recipe can be given as key=value, such as `extract.segments.max_s=10` or `dedup.exact=false`.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pipelines.curation import layers, pipeline, verify
from pipelines.curation.recipe import RECIPES, Recipe, load_recipe
from pipelines.curation.sources.find import InputError
from pipelines.curation.summary import Dataset
from pipelines.curation.taken_down import NoSuchSource
from skyreels import tracking
from skyreels.command_line import exit_status, parse
from skyreels.locations import printable
from skyreels.storage import is_remote

_EXPECTED = (InputError, NoSuchSource, pipeline.TakedownIncomplete, layers.LayerFailed)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it ended well, 1 with the reason on stderr (also where nothing was kept), 2 for wrong
    arguments."""
    words = sys.argv[1:] if argv is None else argv
    arguments, settings = parse(_parser(), _with_command(words), many=("input", "source"))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return exit_status(
        lambda: int(arguments.run(arguments, load_recipe(arguments.recipe, settings))),
        _EXPECTED,
        stopped="stopped; the same command goes on from what is committed",
    )


def _curate(arguments: argparse.Namespace, recipe: Recipe) -> int:
    if not arguments.input and not arguments.replay_rejects:
        raise InputError("nothing to do: give --input, or --replay-rejects to try again what failed")
    if arguments.dry_run:
        return _print_plan(arguments, recipe)
    params = {
        "inputs": printable(" ".join(arguments.input)),
        "output": printable(arguments.output),
        "recipe": recipe.name,
    }
    with tracking.track("curation", run_name=recipe.name, params=params, enabled=not arguments.no_tracking) as run:
        options = pipeline.Options(replay_rejects=arguments.replay_rejects, quiet=arguments.quiet)
        dataset = pipeline.curate(arguments.input, arguments.output, recipe, options)
        _log(run, dataset)
    return _finished(dataset)


def _refilter(arguments: argparse.Namespace, recipe: Recipe) -> int:
    return _finished(pipeline.refilter(arguments.output, recipe, pipeline.Options(quiet=arguments.quiet)))


def _takedown(arguments: argparse.Namespace, recipe: Recipe) -> int:
    named, datasets = pipeline.takedown(arguments.output, arguments.source, copies=not arguments.keep_copies)
    print(f"took down {len(named.asked)} sources:", *map(printable, sorted(named.asked.values())), sep="\n  ")
    if named.copies:
        copies = map(printable, sorted(named.copies.values()))
        print(f"and {len(named.copies)} of the same bytes:", *copies, sep="\n  ")
    print("Caches of latents, models trained on it and reports logged to MLflow are not below this output.")
    for dataset in datasets:
        _print(dataset)
    return 0


def _verify(arguments: argparse.Namespace, recipe: Recipe) -> int:
    found = verify.find_damage(arguments.output)
    for damage in found:
        print(f"damaged   {printable(damage.problem)}")
    if not found:
        print("everything is as it was written")
        return 0
    if arguments.dry_run:
        return 1
    left = verify.repair(arguments.output, found, recipe, quiet=arguments.quiet)
    left += [damage.problem for damage in verify.find_damage(arguments.output)]
    for problem in dict.fromkeys(left):
        print(f"error: {printable(problem)}", file=sys.stderr)
    if not left:
        print("all of it is made anew, and as it was written")
    return 1 if left else 0


def _print_plan(arguments: argparse.Namespace, recipe: Recipe) -> int:
    ahead = pipeline.plan_inputs(arguments.input, arguments.output, recipe)
    filters = sum(rule is not None for rule in recipe.filters.values())
    counted = ", ".join(f"{count} {kind}" for kind, count in sorted(ahead.sources.items())) or "none"
    print(f"sources   {sum(ahead.sources.values())} ({counted})")
    print(f"parts     {ahead.parts}, of which {ahead.left} to do ({ahead.left_bytes / 2**30:.2f} GiB to read)")
    print(
        f"recipe    {recipe.name}: {filters} filters, captions by {recipe.captions.backend}, "
        f"embeddings by {recipe.embedding.backend}, extraction {recipe.extract.identity}"
    )
    for part in ahead.first:
        print(f"  {part.part_id}  {len(part.sources):4d} sources  {printable(part.sources[0].uri)} …")
    if ahead.left > len(ahead.first):
        print(f"  … and {ahead.left - len(ahead.first)} more")
    return 0


def _finished(dataset: Dataset) -> int:
    """What was made, as text and as exit status: a dataset without a sample is nothing that a later step can use."""
    _print(dataset)
    if dataset.kept:
        return 0
    print(f"error: nothing was kept: {dataset.took_most or _NOTHING_READ}", file=sys.stderr)
    return 1


_NOTHING_READ = (
    "no source that was planned has been read yet; run `jobs/curate.py --input …` with this --output to its end first"
)


def _print(dataset: Dataset) -> None:
    share = dataset.kept / dataset.clips if dataset.clips else 0.0
    print(
        f"\n{dataset.sources} sources ({dataset.seconds_in / 3600:.2f} h), {dataset.failed_sources} unreadable; "
        f"{dataset.clips} clips cut, {dataset.kept} kept ({share:.0%}, {dataset.seconds_kept / 3600:.2f} h) "
        f"in {dataset.wall_s:.1f} s"
    )
    for reason, count in list(dataset.rejected.items())[:12]:
        print(f"  {count:6d}  {reason}")
    print(f"shards    {dataset.location}/shards")
    print(f"manifest  {dataset.manifest}")
    print(f"rejects   {dataset.rejects}")
    print(f"report    {dataset.report}")


def _log(run: tracking.TrackedRun, dataset: Dataset) -> None:
    numbers = {name: value for name, value in asdict(dataset).items() if isinstance(value, int | float)}
    run.metrics(numbers | {f"rejected/{name.replace(':', '/')}": count for name, count in dataset.rejected.items()})
    run.params({"dataset": dataset.location})
    if not is_remote(dataset.report):
        run.artifact(Path(dataset.report))


def _parser() -> argparse.ArgumentParser:
    shipped = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--output", required=True, help="folder or s3://… that holds the pool and its datasets")
    common.add_argument("--recipe", default="default", help=f"a YAML file or one that is shipped: {shipped}")
    common.add_argument("--quiet", action="store_true", help="no progress bars")

    top = argparse.ArgumentParser(
        prog="jobs/curate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(dest="command", metavar="run | refilter | takedown | verify")

    run = commands.add_parser("run", parents=[common], help="curate inputs (the default command)")
    run.add_argument(
        "--input",
        nargs="+",
        action="extend",
        default=[],
        help="folders, files, globs, s3://…, manifests (csv, jsonl, parquet) or WebDataset tars",
    )
    run.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    run.add_argument("--replay-rejects", action="store_true", help="try the sources that failed once more")
    run.add_argument("--no-tracking", action="store_true", help="do not log to MLflow")
    run.set_defaults(run=_curate)
    top.epilog = "options of run:\n" + run.format_help().partition("options:\n")[2]

    refilter = commands.add_parser("refilter", parents=[common], help="another dataset from the same pool")
    refilter.set_defaults(run=_refilter)

    takedown = commands.add_parser("takedown", parents=[common], help="remove sources from everything, for good")
    takedown.add_argument("--source", nargs="+", action="extend", required=True, help="locations, source ids or globs")
    takedown.add_argument("--keep-copies", action="store_true", help="leave other sources of the same bytes alone")
    takedown.set_defaults(run=_takedown)

    check = commands.add_parser("verify", parents=[common], help="compare every byte with what was written, and mend")
    check.add_argument("--dry-run", action="store_true", help="tell what is damaged and mend nothing")
    check.set_defaults(run=_verify)
    return top


def _with_command(argv: Sequence[str]) -> list[str]:
    """`--input …` alone means `run --input …`."""
    named = {"run", "refilter", "takedown", "verify", "-h", "--help"}
    return list(argv) if argv and argv[0] in named else ["run", *argv]


if __name__ == "__main__":
    sys.exit(main())
