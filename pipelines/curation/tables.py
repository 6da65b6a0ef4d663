"""Clips and sources as flat parquet tables: one row each, scores as columns."""

import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.curation.records import Clip, Rejection, SourceReport
from skyreels.commits import Commit, CommitLog
from skyreels.shards import Member
from skyreels.storage import DamageError

Members = dict[str, Member]

_CLIP_TYPES: dict[str, pa.DataType] = {
    "key": pa.string(),
    "source_id": pa.string(),
    "part_id": pa.string(),
    "kind": pa.string(),
    "start_s": pa.float64(),
    "end_s": pa.float64(),
    "width": pa.int32(),
    "height": pa.int32(),
    "fps": pa.float64(),
    "frames": pa.int32(),
    "has_audio": pa.bool_(),
    "crop": pa.list_(pa.int32()),
    "hashes": pa.list_(pa.uint64()),
    "hash_times": pa.list_(pa.float32()),
    "speech": pa.list_(pa.list_(pa.float64())),
    "parts": pa.string(),
    "members": pa.string(),
    "stage": pa.string(),
    "reason": pa.string(),
    "remedy": pa.string(),
    "detail": pa.string(),
}

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


def clip_rows(part_id: str, clips: Iterable[Clip], members: dict[str, Members]) -> list[dict[str, Any]]:
    """Flat rows: a clip's fields, its scores under their own names, and where its files lie."""
    rows = []
    for clip in clips:
        row = clip.model_dump(exclude={"scores", "rejection"}, mode="json")
        row |= {"part_id": part_id, "parts": json.dumps(row["parts"]), **rejection_columns(clip.rejection)}
        rows.append(row | {"members": encode_members(members.get(clip.key, {}))} | clip.scores)
    return rows


def rejection_columns(rejection: Rejection | None) -> dict[str, str | None]:
    return rejection.model_dump() if rejection else dict.fromkeys(("stage", "reason", "remedy", "detail"))


def source_rows(part_id: str, reports: Iterable[SourceReport]) -> list[dict[str, Any]]:
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


def clip_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Rows as a table; columns that are not fixed (scores) keep the type they have."""
    names = sorted({name for row in rows for name in row} - _CLIP_TYPES.keys())
    columns = {name: pa.array([row.get(name) for row in rows], kind) for name, kind in _CLIP_TYPES.items()}
    return pa.table(columns | {name: _score_column([row.get(name) for row in rows]) for name in names})


def source_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), pa.schema(_SOURCE_TYPES))


def encode_members(members: Members) -> str:
    return json.dumps({name: member.place for name, member in members.items()})


def members_of(row: dict[str, Any]) -> Members:
    """Where the files of a clip lie in the pool, by extension."""
    return {name: Member(*place) for name, place in json.loads(row["members"]).items()}


def committed(log: CommitLog, commit: Commit, folder: str) -> pa.Table:
    """The table that a commit names below `folder`. Raises DamageError where it is not as it was written."""
    file = next(file for file in commit.files if file.name.startswith(folder))
    return decode(log.read_file(file), log.storage.location(file.name))


def concat(tables: Sequence[pa.Table]) -> pa.Table:
    """One table from many whose score columns may differ."""
    return pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({})


def encode(table: pa.Table) -> bytes:
    """Parquet whose pages carry checksums, which `decode` compares."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def decode(data: bytes, where: str = "a table", remedy: str = "restore it from a copy") -> pa.Table:
    """Raises DamageError, naming `where` and the remedy, for what is no table or not the one that was written."""
    try:
        return pq.read_table(io.BytesIO(data), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DamageError(f"{where} is damaged ({len(data)} bytes; {reason}): {remedy}") from error


def _score_column(values: list[Any]) -> pa.Array:
    """Numbers as float64, so that parts agree on the type whatever their values are; a column of None fits any."""
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        return pa.array(values, pa.float64())
    return pa.array(values)
