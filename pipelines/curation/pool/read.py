"""The pool as a table of clips and one of sources: what is committed for a plan."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from pipelines.curation.pool import tables
from pipelines.curation.pool.plan import Part, Plan
from pipelines.curation.records import DAMAGE_REMEDY, Rejection, Source, SourceReport, Status
from pipelines.dataset.tables import Row, concat
from skyreels.commits import CommitLog, digest
from skyreels.storage import DamageError, Storage

logger = logging.getLogger(__name__)


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
            found = read_part(log, part, latest)
            clips.append(found[0])
            sources.append(_as_seen(found[1], known))
    return Pool(concat(clips), concat(sources))


def read_part(log: CommitLog, part: Part, latest: Mapping[str, str]) -> tuple[pa.Table, pa.Table]:
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
