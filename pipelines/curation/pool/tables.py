"""Clips and sources as flat parquet tables: one row each, scores as columns."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from pipelines.curation.records import Clip, Rejection, SourceReport
from pipelines.dataset.manifest import COLUMNS
from pipelines.dataset.tables import Members, Row, decode, encode_members
from skyreels.commits import Commit, CommitLog

_SOURCE_TYPES: dict[str, pa.DataType] = {
    **dict.fromkeys(("source_id", "uri", "name", "part_id", "kind"), pa.string()),
    "size": pa.int64(),
    "status": pa.string(),
    "attempts": pa.int32(),
    "sha256": pa.string(),
    "seconds": pa.float64(),
    "clips": pa.int32(),
    "cuts_s": pa.list_(pa.float64()),
    **dict.fromkeys(("meta", "probe", "uncovered", "transitions", "timings"), pa.string()),
    **dict.fromkeys(("stage", "reason", "remedy", "detail"), pa.string()),
}


def clip_rows(part_id: str, clips: Iterable[Clip], members: dict[str, Members]) -> list[Row]:
    """Flat rows: a clip's fields, its scores under their own names, and where its files lie."""
    rows = []
    for clip in clips:
        row = clip.model_dump(exclude={"scores", "rejection"}, mode="json")
        row |= {"part_id": part_id, "parts": json.dumps(row["parts"]), **rejection_columns(clip.rejection)}
        rows.append(row | {"members": encode_members(members.get(clip.key, {}))} | clip.scores)
    return rows


def rejection_columns(rejection: Rejection | None) -> dict[str, str | None]:
    return rejection.model_dump() if rejection else dict.fromkeys(("stage", "reason", "remedy", "detail"))


def source_rows(part_id: str, reports: Iterable[SourceReport]) -> list[Row]:
    """One row a source; nested facts as JSON text."""
    return [
        {
            "source_id": report.source.source_id,
            "uri": report.source.uri,
            "name": report.source.name,
            "part_id": part_id,
            "kind": report.source.kind.value,
            "size": report.source.size,
            "status": report.status.value,
            "attempts": report.attempts,
            "sha256": report.sha256,
            "seconds": report.seconds,
            "clips": len(report.clips),
            "meta": json.dumps(report.source.meta, default=str),
            "probe": json.dumps(report.probe),
            "uncovered": json.dumps(report.uncovered),
            "cuts_s": report.cuts_s,
            "transitions": json.dumps(report.transitions),
            "timings": json.dumps(report.timings),
            **rejection_columns(report.rejection),
        }
        for report in reports
    ]


def clip_table(rows: Sequence[Row]) -> pa.Table:
    """Rows as a table; columns that are not fixed (scores) keep the type they have."""
    names = sorted({name for row in rows for name in row} - COLUMNS.keys())
    columns = {name: pa.array([row.get(name) for row in rows], kind) for name, kind in COLUMNS.items()}
    return pa.table(columns | {name: _score_column([row.get(name) for row in rows]) for name in names})


def source_table(rows: Sequence[Row]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), pa.schema(_SOURCE_TYPES))


def committed(log: CommitLog, commit: Commit, folder: str) -> pa.Table:
    """The table that a commit names below `folder`. Raises DamageError where it is not as it was written."""
    file = next(file for file in commit.files if file.name.startswith(folder))
    return decode(log.read_file(file), log.storage.location(file.name))


def _score_column(values: list[Any]) -> pa.Array:
    """Numbers as float64, so that parts agree on the type whatever their values are; a column of None fits any."""
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        return pa.array(values, pa.float64())
    return pa.array(values)
