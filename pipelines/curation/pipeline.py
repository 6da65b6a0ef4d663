"""Curation from raw media to training shards, and the ways to come back to it.

    inputs -> plan -> pool (measure, cut, commit) -> layers (embeddings, transcripts)
           -> selection (filters, duplicates, balance) -> captions -> packs -> manifest, rejects, report

Every arrow is resumable: running the same command again does what is missing and nothing twice.
"""

import fnmatch
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.curation import annotators, elsewhere, layers, progress
from pipelines.curation.account import Account
from pipelines.curation.captions.captioners import check_captioner
from pipelines.curation.dataset import finish_dataset, made_recipes
from pipelines.curation.plan import Part, Plan, extend_plan, planned_sources, read_plan
from pipelines.curation.pool import PartFailure, extract_parts, read_pool
from pipelines.curation.purge import purge_sources
from pipelines.curation.recipe import Recipe
from pipelines.curation.records import Source, Status
from pipelines.curation.sources import InputError, find_sources, refuse_own
from pipelines.curation.summary import Dataset, Work
from skyreels.cluster import LazyCluster
from skyreels.commits import CommitLog
from skyreels.locations import printable
from skyreels.progress import Progress
from skyreels.storage import Storage, normalise, require_writable, sweep_temporary

logger = logging.getLogger(__name__)

_TAKEN_DOWN = "taken_down.json"
_STALE_AFTER_S = 24 * 3600.0


class Incomplete(RuntimeError):
    """Some parts could not be written; what is committed stays, and the same command goes on from there."""


class NoSuchSource(LookupError):
    """A take-down that names nothing."""


@dataclass(frozen=True)
class Options:
    """How a run behaves, apart from what it makes."""

    replay_rejects: bool = False
    quiet: bool = False


def plan_inputs(inputs: Sequence[str], output: str, recipe: Recipe) -> tuple[Plan, list[Part]]:
    """What `curate` would do: the whole plan, and the parts that are not done. Writes nothing."""
    check_captioner(recipe.captions)
    pool = Storage(normalise(output)).sub("pool")
    plan = extend_plan(pool, _listed(inputs, output), recipe.extract, write=False)
    return plan, plan.remaining(CommitLog(pool))


def curate(inputs: Sequence[str], output: str, recipe: Recipe, options: Options | None = None) -> Dataset:
    """Everything from the inputs to the dataset `<output>/datasets/<recipe.name>`."""
    options = options or Options()
    root = Storage(normalise(output))
    pool = root.sub("pool")
    started = time.monotonic()
    require_writable(root.root)
    elsewhere.stores(recipe, root)
    check_captioner(recipe.captions)  # all three complain now rather than after hours of work
    sweep_temporary(root.root, older_than_s=_STALE_AFTER_S)
    taken = taken_down(root)
    sources = [source for source in _listed(inputs, output) if source.source_id not in taken]
    plan = extend_plan(pool, sources, recipe.extract)
    if not plan.parts:
        raise InputError(f"nothing to curate: {root.root} holds no sources, and none are new; give --input")
    if options.replay_rejects:
        plan = _replay(plan, pool, recipe)
    with LazyCluster() as cluster:
        work = _fill_pool(plan, pool, recipe, cluster, quiet=options.quiet)
        return _from_pool(root, plan, recipe, cluster, started, work, quiet=options.quiet)


def refilter(output: str, recipe: Recipe, options: Options | None = None) -> Dataset:
    """The dataset that this recipe makes of what is already in the pool; no source is decoded."""
    options = options or Options()
    check_captioner(recipe.captions)
    root = Storage(normalise(output))
    plan = read_plan(root.sub("pool"), recipe.extract)
    if not plan.parts:
        raise FileNotFoundError(
            f"{root.root} has no pool made with this recipe's `extract` section: run `jobs/curate.py --input … "
            f"--output {output}` first, or keep `extract` as it was"
        )
    started = time.monotonic()
    with LazyCluster() as cluster:
        return _from_pool(root, plan, recipe, cluster, started, Work(), quiet=options.quiet)


def takedown(output: str, patterns: Sequence[str]) -> tuple[list[str], list[Dataset]]:
    """Remove every source that a pattern names, for good: from the pool, the layers and all datasets.

    Returns the sources' locations and the datasets as they are without them.
    """
    root = Storage(normalise(output))
    named = {
        source.source_id: source.uri
        for source in planned_sources(root.sub("pool"))
        if any(fnmatch.fnmatchcase(source.uri, p) or p in (source.uri, source.source_id) for p in patterns)
    }
    if not named:
        raise NoSuchSource(f"no source of {root.root} matches {', '.join(patterns)}: give a location, an id or a glob")
    taken = sorted(taken_down(root) | named.keys())
    root.write(_TAKEN_DOWN, json.dumps(taken).encode())  # first: from here on no run lets them in again
    purge_sources(root, frozenset(named))
    with LazyCluster() as cluster:
        return sorted(named.values()), [
            _from_pool(
                root, read_plan(root.sub("pool"), recipe.extract), recipe, cluster, time.monotonic(), Work(), quiet=True
            )
            for recipe in made_recipes(root)
        ]


def taken_down(root: Storage) -> frozenset[str]:
    """Source ids that must never come back."""
    return frozenset(json.loads(root.read(_TAKEN_DOWN))) if root.exists(_TAKEN_DOWN) else frozenset()


def _listed(inputs: Sequence[str], output: str) -> list[Source]:
    """The sources of the inputs; what else they hold is logged. Raises InputError where there is nothing to curate."""
    refuse_own(inputs, output)
    account = Account()
    sources = find_sources(inputs, account)
    if inputs and not sources:
        places = ", ".join(map(printable, inputs))
        raise InputError("; ".join([f"nothing to curate: no media in {places}", *account.lines()]))
    for line in account.lines():
        logger.info("inputs: %s", line)
    return sources


def _replay(plan: Plan, pool: Storage, recipe: Recipe) -> Plan:
    """Plan every source that failed once more, as a new attempt."""
    rows = read_pool(pool, plan).sources.to_pylist()
    failed = {row["source_id"]: row["attempts"] for row in rows if row["status"] == Status.FAILED}
    if not failed:
        return plan
    again = [source for source_id, source in plan.sources.items() if source_id in failed]
    return extend_plan(pool, again, recipe.extract, attempt=max(failed.values()) + 1)


def _fill_pool(plan: Plan, pool: Storage, recipe: Recipe, cluster: LazyCluster, *, quiet: bool) -> Work:
    parts = plan.remaining(CommitLog(pool))
    if not parts:
        return Work()
    cluster.join()
    failures: list[PartFailure] = []
    work = Work()
    started = time.monotonic()
    total = sum(len(part.sources) for part in parts)
    with Progress("measure and cut", total, "sources", quiet=quiet) as bar:
        for outcome in extract_parts(parts, recipe.extract, pool):
            if isinstance(outcome, PartFailure):
                failures.append(outcome)
                bar.update(len(outcome.sources))
                continue
            work = work.plus(outcome.seconds, outcome.clips, outcome.bytes, outcome.failed)
            bar.update(outcome.sources, progress.pool_status(work, time.monotonic() - started))
    if failures:
        reasons = "\n".join(f"  part {f.part_id} ({len(f.sources)} sources): {f.reason}: {f.detail}" for f in failures)
        raise Incomplete(
            f"{len(failures)} of {len(parts)} parts could not be written to {pool.root}:\n{reasons}\n"
            "The other parts are committed. Make room or repair the store, then run the same command again."
        )
    return work


def _from_pool(
    root: Storage, plan: Plan, recipe: Recipe, cluster: LazyCluster, started: float, work: Work, *, quiet: bool
) -> Dataset:
    """Layers over the clips that were cut, then the dataset."""
    found = read_pool(root.sub("pool"), plan)
    cut = [row for row in found.clips.to_pylist() if row["stage"] is None]
    for layer in annotators.before_selection(recipe, root):
        missing = layers.unanswered(layer, cut, root)
        if missing:
            cluster.join()
            with Progress(layer.name, len(missing), "clips", quiet=quiet) as bar:
                for count in layers.fill(layer, missing, root):
                    bar.update(count)
    return finish_dataset(root, found, recipe, taken_down(root), cluster, started, work, quiet=quiet)
