"""The cache job at work: encode what is missing on Ray Data, commit it part by part, and finish the cache."""

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import ray
import torch
from pydantic import TypeAdapter

from pipelines.curation import progress, tables
from pipelines.training.latents.components import load_encoders
from pipelines.training.latents.index import (
    CACHE,
    CONSTANTS_PART,
    INDEX,
    REMAKE,
    CacheRecord,
    Entry,
    LatentError,
    LatentIndex,
    decode_entry,
    encode_entries,
    open_latents,
)
from pipelines.training.latents.job import CacheJob, CachePlan, plan_cache
from pipelines.training.latents.plan import Part, store_plan
from pipelines.training.latents.spec import Bucket
from pipelines.training.latents.write import PartResult, Sources, write_constants, write_part
from skyreels import leftovers
from skyreels.cluster import LazyCluster
from skyreels.commits import Commit, CommitLog, digest
from skyreels.storage import DamageError, Storage

logger = logging.getLogger(__name__)

REJECTS = "rejects.parquet"
_REJECT_COLUMNS = dict.fromkeys(("key", "stage", "reason", "remedy", "detail"), pa.string())

_MAX_BLOCKS = 10_000  # tasks of one Ray Data stage

Row = dict[str, Any]
Work = Part | tuple[Bucket, ...]
"""A part to make, or the buckets to make the constants of."""
_WORK: TypeAdapter[Work] = TypeAdapter(Work)


@dataclass(frozen=True)
class CacheSummary:
    """A finished cache: where it is and what it came to. `rejected`: `stage:reason` -> count."""

    location: str
    samples: int
    new_samples: int
    buckets: dict[str, int]
    rejected: dict[str, int]
    cpu_s: float
    wall_s: float


def cache(job: CacheJob, *, replay_rejects: bool = False, quiet: bool = False) -> CacheSummary:
    """Make the cache, or what is missing of it. `replay_rejects` tries the parts with unreadable samples again.

    Raises LatentError where nothing fits the spec, parts could not be written, or too much could not be read.
    """
    return complete(plan_cache(job), replay_rejects=replay_rejects, quiet=quiet)


def complete(plan: CachePlan, *, replay_rejects: bool = False, quiet: bool = False) -> CacheSummary:
    """Do what a plan of now says, as `cache`."""
    started = time.monotonic()
    storage = Storage(plan.location)
    leftovers.sweep(plan.location)
    if replay_rejects:
        _revoke_rejected(plan, storage)
        plan = plan_cache(plan.job)
    results: list[PartResult] = []
    found = None if plan.remaining else _whole(storage)
    if found is None:
        store_plan(plan.latents, storage)
        results = _fill(plan, quiet=quiet)
        _finish(plan, storage)
        found = open_latents(plan.location), _rejects(storage)
    index, rejects = found
    buckets = {name: len(entries) for name, entries in index.buckets.items()}
    return CacheSummary(
        location=plan.location,
        samples=sum(buckets.values()),
        new_samples=sum(result.samples for result in results),
        buckets=buckets,
        rejected=dict(Counter(f"{row['stage']}:{row['reason']}" for row in rejects).most_common()),
        cpu_s=sum(result.cpu_s for result in results),
        wall_s=time.monotonic() - started,
    )


def _whole(storage: Storage) -> tuple[LatentIndex, list[Row]] | None:
    """Index and rejects of a finished cache; None where one of its own files is not there or damaged: all of them are
    written anew from the commits."""
    if not storage.exists(CACHE):
        return None
    try:
        if CONSTANTS_PART not in CommitLog(storage).intact():
            return None
        return open_latents(storage.root), _rejects(storage)
    except (LatentError, DamageError, FileNotFoundError) as error:
        logger.warning("the cache is completed anew: %s", error)
        return None


def _rejects(storage: Storage) -> list[Row]:
    rows: list[Row] = tables.decode(storage.read(REJECTS), storage.location(REJECTS)).to_pylist()
    return rows


def _fill(plan: CachePlan, *, quiet: bool) -> list[PartResult]:
    """Make the remaining parts; every one that can be written is committed before an error is raised."""
    work: list[Work] = list(plan.remaining)
    if CONSTANTS_PART not in CommitLog(Storage(plan.location)).intact():
        work.append(plan.buckets)
    rows = [{"work": _WORK.dump_json(item).decode()} for item in work]
    results, failed = [], []
    total = sum(len(part.samples) for part in plan.remaining)
    with LazyCluster() as cluster, progress.shown("cache", total, "samples", quiet=quiet) as bar:
        for row in _in_process(plan, rows) if plan.job.workers == 0 else _on_ray(plan, rows, cluster):
            if row["error"]:
                failed.append(row["error"])
                continue
            result = PartResult(row["part_id"], row["samples"], row["rejected"], row["cpu_s"])
            results.append(result)
            bar.update(result.samples + result.rejected)
    if failed:
        raise LatentError(
            f"{len(failed)} of {len(work)} parts could not be written to {plan.location}:\n  "
            + "\n  ".join(failed)
            + "\nThe others are committed. Make room or repair the store, then run the same command again."
        )
    return results


def _in_process(plan: CachePlan, rows: Sequence[Row]) -> Iterator[Row]:
    """A plain loop in this process: for a few clips, and the baseline that Ray's overhead is measured against."""
    worker = _Worker(plan.job, plan.location, plan.sources)
    for row in rows:
        yield worker(row)


def _on_ray(plan: CachePlan, rows: Sequence[Row], cluster: LazyCluster) -> Iterator[Row]:
    """A pool of actors that hold the networks, one part at a time each."""
    cluster.join()
    job, room = plan.job, ray.cluster_resources()
    fitting = room.get("GPU", 0) / job.gpus_per_worker if job.gpus_per_worker else room["CPU"] / job.cpus_per_worker
    workers = job.workers or max(1, int(fitting))
    done = ray.data.from_items(list(rows), override_num_blocks=min(len(rows), _MAX_BLOCKS)).map(
        _Worker,
        fn_constructor_kwargs={"job": job, "location": plan.location, "sources": plan.sources},
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows))),
        num_cpus=job.cpus_per_worker,
        num_gpus=job.gpus_per_worker or None,
    )
    yield from done.iter_rows()


class _Worker:
    """Holds codecs and encoder, and makes one part at a time."""

    def __init__(self, job: CacheJob, location: str, sources: Sources) -> None:
        self._spec, self._cache, self._sources = job.spec, Storage(location), sources
        self._encoders = load_encoders(job.components, job.preset, job.device)

    def __call__(self, row: Row) -> Row:
        work: Work = _WORK.validate_json(row["work"])
        name = work.part_id if isinstance(work, Part) else CONSTANTS_PART
        try:
            with _one_thread():
                return asdict(self._make(work)) | {"error": ""}
        except OSError as error:  # the store's fault: no sample is to blame, and the next run does the part again
            return asdict(PartResult(name, 0, 0, 0.0)) | {"error": f"part {name}: {error}"}

    def _make(self, work: Work) -> PartResult:
        if isinstance(work, Part):
            return write_part(work, self._sources, self._cache, self._spec, self._encoders)
        write_constants(work, self._cache, self._spec, self._encoders)
        return PartResult(CONSTANTS_PART, 0, 0, 0.0)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in one order: how many threads a worker has must not show in the bytes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _finish(plan: CachePlan, storage: Storage) -> None:
    """Index and rejects, and last the record that makes the cache one."""
    commits = _commits(plan, storage)
    rejects = [{"key": key, "stage": "place", **asdict(misfit)} for key, misfit in plan.latents.misfits.items()]
    unread = [{"key": k, "stage": "read", **why} for c in commits for k, why in c.facts.get("rejected", {}).items()]
    rejects = sorted([*rejects, *unread], key=lambda row: row["key"])
    storage.write(REJECTS, tables.encode(pa.Table.from_pylist(rejects, pa.schema(_REJECT_COLUMNS))))
    entries = _entries(commits, storage)
    if len(unread) > plan.job.max_unreadable * plan.latents.samples or not entries:
        raise LatentError(_too_many(unread, plan, storage))
    storage.write(INDEX, encode_entries(sorted(entries, key=lambda entry: entry.key)))
    files = sorted((file.name, file.sha256) for commit in commits for file in commit.files)
    record = CacheRecord(
        spec=plan.job.spec,
        identities=plan.identities,
        video=asdict(plan.video),
        audio=asdict(plan.audio),
        data=plan.data,
        command=plan.job.command,
        samples=len(entries),
        rejected=len(rejects),
        fingerprint=digest({"files": files}),
    )
    storage.write(CACHE, record.model_dump_json(indent=1).encode())


def _entries(commits: Sequence[Commit], storage: Storage) -> list[Entry]:
    try:
        return [decode_entry(values) for commit in commits for values in commit.facts.get("entries", [])]
    except TypeError as error:
        raise LatentError(f"{storage.root} is of another version ({error}): {REMAKE}") from error


def _too_many(unread: Sequence[Row], plan: CachePlan, storage: Storage) -> str:
    reasons = Counter((row["reason"], row["remedy"]) for row in unread).most_common()
    return "\n".join(
        [
            f"{len(unread)} of {plan.latents.samples} samples could not be read, more than --max-unreadable allows "
            f"({plan.job.max_unreadable:.0%}):",
            *(f"  {count} {reason}: {remedy}" for (reason, remedy), count in reasons),
            f"{storage.location(REJECTS)} names each. Then run the same command with --replay-rejects.",
        ]
    )


def _commits(plan: CachePlan, storage: Storage) -> list[Commit]:
    """Of this plan's parts and the constants."""
    wanted = {part.part_id for part in plan.latents.parts} | {CONSTANTS_PART}
    return [commit for commit in CommitLog(storage).all() if commit.part_id in wanted]


def _revoke_rejected(plan: CachePlan, storage: Storage) -> None:
    """Make the parts with unreadable samples not have happened; the cache is unfinished until they are made again."""
    storage.delete(CACHE)
    for commit in _commits(plan, storage):
        if commit.facts.get("rejected"):
            CommitLog(storage).revoke(commit.part_id)
