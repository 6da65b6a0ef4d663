"""The cache job at work: encode what is missing on Ray Data, commit it part by part, and finish the cache."""

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import torch
from pydantic import TypeAdapter

from pipelines.dataset.tables import Row, decode, encode
from pipelines.training.latents.components import load_encoders
from pipelines.training.latents.index import (
    CACHE,
    CONSTANTS_PART,
    INDEX,
    REMAKE,
    CacheRecord,
    IndexRecord,
    LatentIndex,
    decode_entry,
    index_problems,
    open_latents,
)
from pipelines.training.latents.job import CacheJob, CachePlan, Part, plan_cache, store_plan
from pipelines.training.latents.rows.table import IndexEntry, LatentError
from pipelines.training.latents.rows.write import write_tables
from pipelines.training.latents.spec import Bucket
from pipelines.training.latents.write import PartResult, Sources, write_constants, write_part
from skyreels import leftovers, parts
from skyreels.cluster import LazyCluster
from skyreels.commits import Commit, CommitLog, digest
from skyreels.progress import Progress
from skyreels.storage import DamageError, Storage

logger = logging.getLogger(__name__)

REJECTS = "rejects.parquet"
_READERS, _READ_AHEAD = 16, 256  # of commit records
_REJECT_COLUMNS = dict.fromkeys(("key", "stage", "reason", "remedy", "detail"), pa.string())

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

    Raises LatentError where nothing fits the spec or too much could not be read, Incomplete where parts could not be
    written.
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
        index = open_latents(storage.root)
        for problem in index_problems(index):
            raise LatentError(problem)
        return index, _rejects(storage)
    except (LatentError, DamageError, FileNotFoundError) as error:
        logger.warning("the cache is completed anew: %s", error)
        return None


def _rejects(storage: Storage) -> list[Row]:
    rows: list[Row] = decode(storage.read(REJECTS), storage.location(REJECTS)).to_pylist()
    return rows


def _fill(plan: CachePlan, *, quiet: bool) -> list[PartResult]:
    """Make the remaining parts; every one that can be written is committed before an error is raised."""
    work: dict[str, Work] = {part.part_id: part for part in plan.remaining}
    if CONSTANTS_PART not in CommitLog(Storage(plan.location)).intact():
        work[CONSTANTS_PART] = plan.buckets
    todo = [parts.Part(part_id, _WORK.dump_json(item).decode()) for part_id, item in work.items()]
    make_worker = partial(_Worker, plan.job, plan.location, plan.sources)
    results = []
    total = sum(len(part.samples) for part in plan.remaining)
    with LazyCluster() as cluster, Progress("cache", total, "samples", quiet=quiet) as bar:
        if plan.job.workers == 0:
            outcomes = parts.run_in_process(todo, make_worker)
        else:
            cluster.join()
            outcomes = parts.run_parts(todo, make_worker, _resources(plan.job))
        for outcome in parts.committed(outcomes, plan.location):
            result = PartResult(**outcome.facts)
            results.append(result)
            bar.update(result.samples + result.rejected)
    return results


def _resources(job: CacheJob) -> parts.Resources:
    """A pool of actors that hold the networks: as many as asked for, or as the cluster has room for."""
    import ray  # here: a cache made in this process needs none

    room = ray.cluster_resources()
    fitting = room.get("GPU", 0) / job.gpus_per_worker if job.gpus_per_worker else room["CPU"] / job.cpus_per_worker
    return parts.Resources(job.cpus_per_worker, job.gpus_per_worker, job.workers or max(1, int(fitting)))


class _Worker:
    """Holds codecs and encoder, and makes one part at a time."""

    def __init__(self, job: CacheJob, location: str, sources: Sources) -> None:
        self._spec, self._cache, self._sources = job.spec, Storage(location), sources
        self._encoders = load_encoders(job.components, job.preset, job.device, sound=job.spec.audio)

    def __call__(self, part: parts.Part) -> dict[str, Any]:
        work: Work = _WORK.validate_json(part.work)
        with _one_thread():
            if isinstance(work, Part):
                return asdict(write_part(work, self._sources, self._cache, self._spec, self._encoders))
            write_constants(work, self._cache, self._spec, self._encoders)
        return asdict(PartResult(CONSTANTS_PART, 0, 0, 0.0))


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
    files: list[tuple[str, str]] = []
    unread: list[Row] = []

    def written() -> Iterator[tuple[str, list[IndexEntry]]]:
        for part, commit in zip(plan.latents.parts, _commits(plan, storage), strict=True):
            files.extend((file.name, file.sha256) for file in commit.files)
            unread.extend({"key": k, "stage": "read", **why} for k, why in commit.facts.get("rejected", {}).items())
            yield part.samples[0].clip.key, _entries(commit, storage)

    index = IndexRecord(tables=write_tables(storage, written()))
    files += [(file.name, file.sha256) for file in CommitLog(storage).read(CONSTANTS_PART).files]
    rejects = [{"key": key, "stage": "place", **asdict(misfit)} for key, misfit in plan.latents.misfits.items()]
    rejects = sorted([*rejects, *unread], key=lambda row: row["key"])
    storage.write(REJECTS, encode(pa.Table.from_pylist(rejects, pa.schema(_REJECT_COLUMNS))))
    samples = sum(sum(facts.counts) for facts in index.tables.values())
    if len(unread) > plan.job.max_unreadable * plan.latents.samples or not samples:
        raise LatentError(_too_many(unread, plan, storage))
    described = index.model_dump_json(indent=1).encode()
    storage.write(INDEX, described)
    record = CacheRecord(
        spec=plan.job.spec,
        identities=plan.identities,
        video=asdict(plan.video),
        audio=asdict(plan.audio),
        data=plan.data,
        command=plan.job.command,
        samples=samples,
        rejected=len(rejects),
        fingerprint=digest({"files": sorted(files)}),
        index=hashlib.sha256(described).hexdigest(),
    )
    storage.write(CACHE, record.model_dump_json(indent=1).encode())


def _entries(commit: Commit, storage: Storage) -> list[IndexEntry]:
    try:
        return [decode_entry(values) for values in commit.facts.get("entries", [])]
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


def _commits(plan: CachePlan, storage: Storage) -> Iterator[Commit]:
    """Of this plan's parts, in their order; some are read ahead."""
    log = CommitLog(storage)
    ids = [part.part_id for part in plan.latents.parts]
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(ids), _READ_AHEAD):
            yield from pool.map(log.read, ids[start : start + _READ_AHEAD])


def _revoke_rejected(plan: CachePlan, storage: Storage) -> None:
    """Make the parts with unreadable samples not have happened; the cache is unfinished until they are made again."""
    storage.delete(CACHE)
    log = CommitLog(storage)
    wanted = {part.part_id for part in plan.latents.parts}
    for commit in log.all():
        if commit.part_id in wanted and commit.facts.get("rejected"):
            log.revoke(commit.part_id)
