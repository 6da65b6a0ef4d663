"""The pool: every clip that could be cut, with every score, made by one Ray Data pass over the plan's parts.

<output>/pool/_plan/      which sources make which part
<output>/pool/shards/     mp4 + flac + sampled frames per clip
<output>/pool/clips/      one row per clip: spans, scores, hashes, where its files lie
<output>/pool/sources/    one row per source: probe, status, why it was rejected
<output>/pool/_commits/   what is true
"""

import errno
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import ray

from pipelines.curation import tables
from pipelines.curation.extract import PartResult, extract_part
from pipelines.curation.plan import Part, Plan
from pipelines.curation.progress import SourceCounter
from pipelines.curation.recipe import ExtractConfig
from pipelines.curation.records import DAMAGE_REMEDY, Rejection, Source, SourceReport, Status
from pipelines.curation.taken_down import TakenDown
from skyreels import leftovers
from skyreels.commits import CommitLog, digest
from skyreels.media.limits import MediaLimits
from skyreels.media.sandbox import Sandbox
from skyreels.storage import DamageError, Storage

logger = logging.getLogger(__name__)

_NOTHING = TakenDown()
_MAX_BLOCKS = 10_000  # tasks of one Ray Data stage


@dataclass(frozen=True)
class PartFailure:
    """A part that could not be written; its sources are untouched and the next run does it again."""

    part_id: str
    sources: tuple[Source, ...]
    reason: str
    detail: str


def extract_parts(
    parts: Sequence[Part], extract: ExtractConfig, pool: Storage, taken: TakenDown = _NOTHING
) -> Iterator[PartResult | PartFailure]:
    """Run parts on the Ray cluster, one task each, and yield their outcomes as they come.

    What was taken down since a part was planned stays out of it.
    """
    by_id = {part.part_id: part for part in parts}
    rows = [_to_row(part) for part in parts]
    dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MAX_BLOCKS)).map(
        _extract_row,
        fn_kwargs={"extract": extract.model_dump_json(), "pool": pool.root, "taken": taken},
        num_cpus=1,
    )
    for row in dataset.iter_rows():
        if row["failure"]:
            part = by_id[row["part_id"]]
            yield PartFailure(part.part_id, part.sources, row["failure"], row["detail"])
        else:
            yield PartResult(**{name: row[name] for name in PartResult.__dataclass_fields__})


def extract_in_process(parts: Sequence[Part], extract: ExtractConfig, pool: Storage) -> Iterator[PartResult]:
    """The same work in a plain loop: the baseline that Ray's overhead is measured against."""
    for part in parts:
        yield extract_part(part, extract, pool, _sandbox(extract.model_dump_json()), lambda report: None)


@dataclass(frozen=True)
class Pool:
    """What is committed for a plan: a table of clips and one of sources, the latest attempt of each source.

    A clip's `made_of` changes with the bytes that it was cut from, and how; a source's `meta` is as it was last seen.
    """

    clips: pa.Table
    sources: pa.Table


def read_pool(pool: Storage, plan: Plan) -> Pool:
    """Both tables; parts that are not committed are absent, sources that were done again count once.

    Of a part that was committed and cannot be read any more, every source is there as one that failed.
    """
    log = CommitLog(pool)
    latest = plan.committed(log)
    current, known = set(latest.values()), plan.sources
    clips, sources = [tables.clip_table([])], [tables.source_table([])]
    for part in plan.parts:
        if part.part_id in current:
            found = _part(log, part, latest)
            clips.append(found[0])
            sources.append(_as_seen(found[1], known))
    return Pool(tables.concat(clips), tables.concat(sources))


def _part(log: CommitLog, part: Part, latest: Mapping[str, str]) -> tuple[pa.Table, pa.Table]:
    """Clips and sources of a part, without the sources that a later part did again."""
    try:
        commit = log.read(part.part_id)
        held = [tables.committed(log, commit, folder) for folder in ("clips/", "sources/")]
    except DamageError as error:
        return _lost(part, error, latest)
    clips, sources = (_current(table, part.part_id, latest) for table in held)
    return _made_of(clips, sources, commit.facts["extract"]), sources


def _as_seen(sources: pa.Table, known: Mapping[str, Source]) -> pa.Table:
    """With what inputs last said of them."""
    meta = [json.dumps(known[source_id].meta, default=str) for source_id in sources.column("source_id").to_pylist()]
    return sources.set_column(sources.column_names.index("meta"), "meta", pa.array(meta, pa.string()))


def _made_of(clips: pa.Table, sources: pa.Table, extract: str) -> pa.Table:
    """With a digest of what each clip is: its span of its sources' bytes, cut by this extraction."""
    sha256 = dict(zip(*(sources.column(name).to_pylist() for name in ("source_id", "sha256")), strict=True))
    spans = clips.select(["source_id", "start_s", "end_s", "parts"]).to_pylist()
    made = [
        digest({"extract": extract, "span": row, "bytes": [sha256.get(i) for i in _pieces(row)]}) for row in spans
    ]  # fmt: skip
    return clips.append_column("made_of", pa.array(made, pa.string()))


def _pieces(clip: dict[str, Any]) -> list[str]:
    return [source_id for source_id, _, _ in json.loads(clip["parts"])] or [clip["source_id"]]


def _current(table: pa.Table, part_id: str, latest: Mapping[str, str]) -> pa.Table:
    mask = [latest.get(source) == part_id for source in table.column("source_id").to_pylist()]
    return table.filter(pa.array(mask, pa.bool_()))


def _lost(part: Part, error: DamageError, latest: Mapping[str, str]) -> tuple[pa.Table, pa.Table]:
    """No clips, and a row per source that says why."""
    logger.warning("part %s of the pool cannot be read, and its %d sources are left out: %s", part.part_id,
                   len(part.sources), error)  # fmt: skip
    why = Rejection(stage="pool", reason="damaged", remedy=DAMAGE_REMEDY, detail=str(error))
    reports = [
        SourceReport(source=source, status=Status.FAILED, attempts=part.attempt, rejection=why)
        for source in part.sources
        if latest.get(source.source_id) == part.part_id
    ]
    return tables.clip_table([]), tables.source_table(tables.source_rows(part.part_id, reports))


def _extract_row(row: dict[str, Any], extract: str, pool: str, taken: TakenDown) -> dict[str, Any]:
    part = Part(row["part_id"], tuple(Source.model_validate_json(text) for text in row["sources"]), int(row["attempt"]))
    empty = {"failure": "", "detail": ""}
    try:
        config = ExtractConfig.model_validate_json(extract)
        result = extract_part(part, config, Storage(pool), _sandbox(extract), _counter(), taken)
    except OSError as error:
        reason = "disk_full" if error.errno == errno.ENOSPC else "store_failed"
        blank = PartResult(part.part_id, len(part.sources), 0, 0, 0.0, 0, 0.0)
        return {**asdict(blank), "failure": reason, "detail": str(error)}
    return {**asdict(result), **empty}


def _to_row(part: Part) -> dict[str, Any]:
    sources = [source.model_dump_json() for source in part.sources]
    return {"part_id": part.part_id, "sources": sources, "attempt": part.attempt}


@lru_cache(maxsize=1)
def _counter() -> SourceCounter:
    return SourceCounter()


@lru_cache(maxsize=1)
def _sandbox(extract: str) -> Sandbox:
    """One decoding child per worker process, kept for all its parts."""
    leftovers.sweep_scratch()  # a worker before this one may have died at its work
    config = ExtractConfig.model_validate_json(extract)
    # Torch is counted as part of the idle child: importing it takes more memory than many a source may.
    network = ("pipelines.curation.visual.transnet",) if config.shots.backend == "transnet" else ()
    return Sandbox(media_limits(config), preload=("pipelines.curation.cut", *network))


def media_limits(extract: ExtractConfig) -> MediaLimits:
    limits = extract.limits
    return MediaLimits(
        max_file_bytes=int(limits.max_file_gb * 2**30),
        max_pixels=limits.max_pixels,
        max_duration_s=limits.max_hours * 3600,
        cpu_s=limits.wall_floor_s + limits.wall_per_media_s * limits.max_hours * 3600,
        memory_bytes=int(limits.memory_gb * 2**30),
    )
