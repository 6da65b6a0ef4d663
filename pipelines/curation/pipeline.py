"""Curation from raw media to training shards, and the ways to come back to it.

    inputs -> plan -> pool (measure, cut, commit) -> layers (embeddings, transcripts)
           -> selection (filters, duplicates, balance) -> captions -> packs -> manifest, rejects, report

Every arrow is resumable: running the same command again does what is missing and nothing twice.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pipelines.curation import annotators, layers
from pipelines.curation.captions.captioners import check_captioner
from pipelines.curation.choice import elsewhere
from pipelines.curation.dataset import dataset_names, finish_dataset, is_finished, made_recipe
from pipelines.curation.pool.extract import extract_parts
from pipelines.curation.pool.outlook import Outlook, look_ahead
from pipelines.curation.pool.plan import (
    Part,
    plan_files,
    read_plan,
    remaining_parts,
    store_plan,
    touched,
)
from pipelines.curation.pool.read import Pool, read_pool
from pipelines.curation.purge import clips_of, purge_sources, purge_unfinished
from pipelines.curation.recipe import Recipe
from pipelines.curation.records import Source, Status
from pipelines.curation.slices.dataset import drop_work, unchanged, work_of
from pipelines.curation.slices.pool import slice_count, slice_pool, task_bytes
from pipelines.curation.sources.account import Account
from pipelines.curation.sources.find import InputError, refuse_own, stream_sources
from pipelines.curation.summary import Dataset, Work
from pipelines.curation.taken_down import Named, find_named, note_taken_down, read_taken_down
from pipelines.dataset.exchange import Steps
from skyreels import leftovers
from skyreels.cluster import LazyCluster
from skyreels.locations import printable
from skyreels.progress import Progress
from skyreels.storage import Storage, is_remote, normalise, require_writable

logger = logging.getLogger(__name__)


class TakedownIncomplete(RuntimeError):
    """Datasets that could not be rewritten, so that they may still hold what was to be taken down."""


@dataclass(frozen=True)
class Options:
    """How a run behaves, apart from what it makes."""

    replay_rejects: bool = False
    quiet: bool = False


def plan_inputs(inputs: Sequence[str], output: str, recipe: Recipe) -> Outlook:
    """What `curate` would do. Writes nothing."""
    check_captioner(recipe.captions)
    return look_ahead(_listed(inputs, output), Storage(normalise(output)).sub("pool"), recipe.extract)


def curate(inputs: Sequence[str], output: str, recipe: Recipe, options: Options | None = None) -> Dataset:
    """Everything from the inputs to the dataset `<output>/datasets/<recipe.name>`."""
    options = options or Options()
    root = Storage(normalise(output))
    pool = root.sub("pool")
    started = time.monotonic()
    require_writable(root.root)
    elsewhere.stores(recipe, root)
    check_captioner(recipe.captions)  # all three complain now rather than after hours of work
    sweep(root)
    taken = read_taken_down(root)
    for sources in _listed(inputs, output):
        store_plan(pool, [source for source in sources if source.source_id not in taken.source_ids], recipe.extract)
    if not plan_files(pool, recipe.extract):
        raise InputError(f"nothing to curate: {root.root} holds no sources, and none are new; give --input")
    with LazyCluster() as cluster:
        if options.replay_rejects:
            _replay(root, recipe, cluster)
        work = _fill_pool(root, recipe, cluster, quiet=options.quiet)
        return _from_pool(root, recipe, cluster, started, work, quiet=options.quiet)


def refilter(output: str, recipe: Recipe, options: Options | None = None) -> Dataset:
    """The dataset that this recipe makes of what is already in the pool; no source is decoded."""
    options = options or Options()
    check_captioner(recipe.captions)
    root = Storage(normalise(output))
    if not plan_files(root.sub("pool"), recipe.extract):
        raise FileNotFoundError(
            f"{root.root} has no pool made with this recipe's `extract` section: run `jobs/curate.py --input … "
            f"--output {output}` first, or keep `extract` as it was"
        )
    started = time.monotonic()
    with LazyCluster() as cluster:
        return _from_pool(root, recipe, cluster, started, Work(), quiet=options.quiet)


def takedown(output: str, patterns: Sequence[str], *, copies: bool = True) -> tuple[Named, list[Dataset]]:
    """Remove every source that a pattern names, for good: from the pool, the layers and all datasets; with `copies`
    every source of the same bytes as well.

    Returns what was named and the datasets as they are without it. Raises TakedownIncomplete where one of them could
    not be rewritten; the others are, and the same command finishes.
    """
    root = Storage(normalise(output))
    named = find_named(root, patterns, copies=copies)
    note_taken_down(root, named)  # first: from here on no run lets them in again
    sweep(root, older_than_s=0)
    gone = clips_of(root, named.source_ids)
    names = dataset_names(root)
    for name in names:
        drop_work(root.sub(f"datasets/{name}"))
        if not is_finished(root, name):
            purge_unfinished(root.sub(f"datasets/{name}"), gone)
    purge_sources(root, named.source_ids)
    made, failed = remake_all(root, [name for name in names if is_finished(root, name)])
    if failed:
        held = "\n".join(f"  {root.location(f'datasets/{name}')}: {why}" for name, why in failed.items())
        raise TakedownIncomplete(
            f"the pool and {len(made)} datasets are rid of {len(named.source_ids)} sources. These could not be "
            f"rewritten and may still hold them:\n{held}\n"
            "Mend what is said, or delete that dataset, and run the same command again."
        )
    return named, made


def remake_all(root: Storage, names: Sequence[str]) -> tuple[list[Dataset], dict[str, str]]:
    """Make finished datasets again from the pool; of those that cannot be made, why, by name."""
    made: list[Dataset] = []
    failed: dict[str, str] = {}
    with LazyCluster() as cluster:
        for name in names:
            try:
                recipe = made_recipe(root, name)
                made.append(_from_pool(root, recipe, cluster, time.monotonic(), Work(), quiet=True, anew=True))
            except Exception as error:
                logger.debug("dataset %s could not be made", name, exc_info=True)
                failed[name] = str(error) or type(error).__name__
    return made, failed


def sweep(root: Storage, older_than_s: float = 24 * 3600.0) -> None:
    """Delete what dead runs left: temporary files below a local output, and scratch space of this machine."""
    if not is_remote(root.root):
        leftovers.sweep(root.root, older_than_s=older_than_s)
    leftovers.sweep_scratch()


def _listed(inputs: Sequence[str], output: str) -> Iterator[list[Source]]:
    """The sources of the inputs; what else they hold is logged. Raises InputError where there is nothing to curate."""
    refuse_own(inputs, output)
    account = Account()
    found = 0
    for sources in stream_sources(inputs, account):
        found += len(sources)
        yield sources
    if inputs and not found:
        places = ", ".join(map(printable, inputs))
        raise InputError("; ".join([f"nothing to curate: no media in {places}", *account.lines()]))
    for line in account.lines():
        logger.info("inputs: %s", line)


def _replay(root: Storage, recipe: Recipe, cluster: LazyCluster) -> None:
    """Plan every source that failed once more, as a new attempt."""
    pool = root.sub("pool")
    failed: dict[str, int] = {}
    for found in _slices(root, recipe, cluster):
        rows = found.sources.select(["source_id", "attempts", "status"]).to_pylist()
        failed |= {row["source_id"]: row["attempts"] for row in rows if row["status"] == Status.FAILED}
    if failed:
        planned = touched(pool, recipe.extract, failed)
        again = [source for source_id, source in planned.sources.items() if source_id in failed]
        store_plan(pool, again, recipe.extract, attempt=max(failed.values()) + 1)


def _fill_pool(root: Storage, recipe: Recipe, cluster: LazyCluster, *, quiet: bool) -> Work:
    done = Work()
    for parts in remaining_parts(root.sub("pool"), recipe.extract):
        work = fill_parts(parts, root, recipe, cluster, quiet=quiet)
        done = done.plus(work.seconds, work.clips, work.bytes, work.failed)
    return done


def fill_parts(parts: Sequence[Part], root: Storage, recipe: Recipe, cluster: LazyCluster, *, quiet: bool) -> Work:
    """Take these parts into the pool. Raises Incomplete, when all the others are committed, where the store failed."""
    cluster.join()
    pool, taken = root.sub("pool"), read_taken_down(root)
    work = Work()
    started = time.monotonic()
    total = sum(len(part.sources) for part in parts)
    with Progress("measure and cut", total, "sources", quiet=quiet) as bar:
        for result in extract_parts(parts, recipe.extract, pool, taken):
            work = work.plus(result.seconds, result.clips, result.bytes, result.failed)
            bar.update(result.sources, work.status(time.monotonic() - started))
    return work


def _from_pool(
    root: Storage,
    recipe: Recipe,
    cluster: LazyCluster,
    started: float,
    work: Work,
    *,
    quiet: bool,
    anew: bool = False,
) -> Dataset:
    """Layers over the clips that were cut, then the dataset; `anew`: looked at even where nothing seems to be new."""
    count = slice_count(root.sub("pool"))
    if count > 1 and not anew and (made := unchanged(root, recipe)) is not None:
        return replace(made, wall_s=time.monotonic() - started)
    slices = _slices(root, recipe, cluster)
    taken = read_taken_down(root)
    out: set[str] = set()
    for found in slices:
        if len(slices) == 1:
            _fill_layers(root, found, recipe, cluster, quiet=quiet)
        facts = found.sources.select(["source_id", "sha256"]).to_pylist() if found.sources.num_columns else []
        out |= {row["source_id"] for row in facts if taken.rejection(row["source_id"], row["sha256"])}
    return finish_dataset(root, slices, recipe, frozenset(out), cluster, started, work, quiet=quiet)


def _slices(root: Storage, recipe: Recipe, cluster: LazyCluster) -> Sequence[Pool]:
    """What is committed for the stored plan: in memory where it is small."""
    pool = root.sub("pool")
    count = slice_count(pool)
    if count == 1:
        return [read_pool(pool, read_plan(pool, recipe.extract))]
    return slice_pool(Steps(work_of(root, recipe, "pool"), cluster, task_bytes(pool)), pool, recipe.extract, count)


def _fill_layers(root: Storage, found: Pool, recipe: Recipe, cluster: LazyCluster, *, quiet: bool) -> None:
    cut = [row for row in found.clips.to_pylist() if row["stage"] is None]
    for layer in annotators.before_selection(recipe, root):
        missing = layers.unanswered(layer, cut, root)
        if missing:
            cluster.join()
            with Progress(layer.name, len(missing), "clips", quiet=quiet) as bar:
                for count in layers.fill(layer, missing, root):
                    bar.update(count)
