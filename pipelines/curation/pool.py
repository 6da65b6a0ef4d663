"""The pool: every clip that could be cut, with every score, made by one Ray Data pass over the plan's parts.

<output>/pool/_plan/      which sources make which part
<output>/pool/shards/     mp4 + flac + sampled frames per clip
<output>/pool/clips/      one row per clip: spans, scores, hashes, where its files lie
<output>/pool/sources/    one row per source: probe, status, why it was rejected
<output>/pool/_commits/   what is true
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from typing import Any

import pyarrow as pa
from pydantic import TypeAdapter

from pipelines.curation import tables
from pipelines.curation.extract import PartResult, extract_part
from pipelines.curation.plan import Part, Plan
from pipelines.curation.progress import SourceCounter
from pipelines.curation.recipe import ExtractConfig
from pipelines.curation.records import DAMAGE_REMEDY, Rejection, Source, SourceReport, Status
from pipelines.curation.taken_down import TakenDown
from pipelines.dataset.tables import Row, concat
from skyreels import leftovers, parts
from skyreels.commits import CommitLog, digest
from skyreels.media.limits import MediaLimits
from skyreels.media.sandbox import Sandbox
from skyreels.storage import DamageError, Storage

logger = logging.getLogger(__name__)

_NOTHING = TakenDown()
_PART: TypeAdapter[Part] = TypeAdapter(Part)


def extract_parts(
    planned: Sequence[Part], extract: ExtractConfig, pool: Storage, taken: TakenDown = _NOTHING
) -> Iterator[PartResult]:
    """Run parts on the Ray cluster, one task each, and yield what they came to as they end.

    What was taken down since a part was planned stays out of it. Raises Incomplete, when all the others are committed,
    where the store failed.
    """
    make_worker = partial(_Extractor, extract.model_dump_json(), pool.root, taken, counting=True)
    yield from _results(parts.run_parts(_as_work(planned), make_worker), pool)


def extract_in_process(planned: Sequence[Part], extract: ExtractConfig, pool: Storage) -> Iterator[PartResult]:
    """The same work in a plain loop: the baseline that Ray's overhead is measured against."""
    make_worker = partial(_Extractor, extract.model_dump_json(), pool.root, _NOTHING, counting=False)
    yield from _results(parts.run_in_process(_as_work(planned), make_worker), pool)


def _as_work(planned: Sequence[Part]) -> list[parts.Part]:
    return [parts.Part(part.part_id, _PART.dump_json(part).decode()) for part in planned]


def _results(outcomes: Iterator[parts.Outcome], pool: Storage) -> Iterator[PartResult]:
    return (PartResult(**outcome.facts) for outcome in parts.committed(outcomes, pool.root))


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
    return Pool(concat(clips), concat(sources))


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


def _pieces(clip: Row) -> list[str]:
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


class _Extractor:
    """Takes parts into the pool; `counting` tells Ray's metrics of the sources."""

    def __init__(self, extract: str, pool: str, taken: TakenDown, *, counting: bool) -> None:
        self._extract, self._pool, self._taken = extract, Storage(pool), taken
        self._report: Callable[[SourceReport], None] = _counter() if counting else _untold

    def __call__(self, part: parts.Part) -> dict[str, Any]:
        planned, extract = _PART.validate_json(part.work), ExtractConfig.model_validate_json(self._extract)
        sandbox = _sandbox(self._extract)
        return asdict(extract_part(planned, extract, self._pool, sandbox, self._report, self._taken))


def _untold(report: SourceReport) -> None:
    """Nobody counts."""


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
