"""Rows as Parquet whose damage is seen, and where the files of a row lie."""

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from skyreels.shards import Member
from skyreels.storage import DamageError

Row = dict[str, Any]
"""Columns of a table whose names are known when it is read: scores, captions, what an input says."""

Members = dict[str, Member]
"""Where the files of a sample lie, by extension."""


def encode_members(members: Members) -> str:
    return json.dumps({name: member.place for name, member in members.items()})


def members_of(row: Mapping[str, Any]) -> Members:
    """Where the files of a clip or sample lie, by extension."""
    return {name: Member(*place) for name, place in json.loads(row["members"]).items()}


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
