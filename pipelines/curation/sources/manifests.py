"""Manifests as they come: CSV in any of its dialects, JSON lines, Parquet; every row is read or named in an error.

Rows are read as they are asked for, so that a manifest may have any number of them; a JSON list alone is read whole.
"""

import csv
import datetime
import io
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.curation.sources.text_files import UnreadableText, decode_pieces, parse_json
from pipelines.dataset.tables import Row
from skyreels import storage

logger = logging.getLogger(__name__)

EXTENSIONS = ("csv", "tsv", "jsonl", "ndjson", "json", "parquet")
LOCATION_COLUMNS = ("uri", "path", "file", "file_name", "filename", "file_path", "location", "url")
"""From the surest to that which may as well be the web page that a file is from."""

_SEPARATORS = ",;\t|"
_LONGEST_FIELD = 16 << 20
_PIECE = 1 << 20  # bytes of a manifest that are read at once
_ROWS = 1 << 10  # of Parquet


class InputError(ValueError):
    """An --input that cannot be read: which, why, and what would be right."""


def read_manifest(location: str) -> Iterator[tuple[str, str, Row]]:
    """(where the row stands, the location that it names, its other columns), without what is empty.

    Relative locations are relative to the manifest. Columns that begin with `_`, as curation's own notes do, are left
    out aloud. Raises InputError naming the line.
    """
    told: set[str] = set()
    for where, row in _rows(location):
        if new := {name for name in row if name.startswith("_")} - told:
            logger.warning("%s: columns that begin with _ are left out: %s; rename them", location, ", ".join(new))
            told |= new
        if not any(value not in (None, "") for value in row.values()):
            continue
        names = {name.lower(): name for name in reversed(row)}
        held = [names[c] for c in LOCATION_COLUMNS if c in names and row[names[c]] not in (None, "")]
        name = next((name for name in held if not _is_web(row[name])), None)
        if name is None:
            raise InputError(f"{where}: {_no_location(row, held)}")
        rest = {other: value for other, value in row.items() if other not in told | {name} and value not in (None, "")}
        yield where, _located(row[name], location, where), rest


def _no_location(row: Row, held: Sequence[str]) -> str:
    if held:
        return (
            f"{row[held[0]]} is on the web, which is not read: fetch the files first and name them in a column "
            f"`path` (`{held[0]}` may stay)"
        )
    return f"no location among {', '.join(row)}; name it in one of {', '.join(LOCATION_COLUMNS)}"


def _is_web(value: Any) -> bool:
    return str(value).lstrip().lower().startswith(("http://", "https://"))


def _located(value: Any, manifest: str, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: the location is {value!r}, which is no text")
    target = value.strip()
    if "\0" in target:
        raise InputError(f"{where}: the location {target!r} has a zero byte in it, which no name has; write it anew")
    if not storage.is_remote(target) and not Path(target.removeprefix("file://")).is_absolute():
        target = storage.join(manifest.rsplit("/", 1)[0], target)
    return storage.normalise(target)


def _rows(location: str) -> Iterator[tuple[str, Row]]:
    extension = location.rpartition(".")[2].lower()
    if extension == "parquet":
        yield from _parquet_rows(location)
        return
    text = _text(location)
    yield from _csv_rows(location, text) if extension in ("csv", "tsv") else _json_rows(location, text)


def _text(location: str) -> Iterator[str]:
    """The text of a file, piece by piece."""
    with storage.open_input(location) as stream:
        try:
            yield from decode_pieces(iter(partial(stream.read, _PIECE), b""), location)
        except UnreadableText as error:
            raise InputError(str(error)) from None


def _lines(text: Iterable[str], newline: str) -> tuple[list[str], Iterator[str]]:
    """The lines up to the first that is not blank, and all lines. With their ends: `newline`, or any where it is ""."""
    lines = _split(text, newline)
    head = []
    for line in lines:
        head.append(line)
        if line.strip():
            break
    return head, chain(head, lines)


def _split(text: Iterable[str], newline: str) -> Iterator[str]:
    held: list[str] = []
    for piece in text:
        held.append(piece)
        if any(end in piece for end in newline or "\r\n"):
            *whole, last = io.StringIO("".join(held), newline=newline).readlines()
            yield from whole
            held = [last]  # perhaps it goes on, or its end does
    if last := "".join(held):
        yield from io.StringIO(last, newline=newline)


def _csv_rows(location: str, text: Iterable[str]) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(_LONGEST_FIELD)
    head, rest = _lines(text, newline="")
    separator = _separator(head)
    lines = csv.reader(rest, delimiter=separator, strict=True)  # else one open quote eats all
    header: list[str] = []
    end = 0
    try:
        for values in lines:
            where, end = f"{location}, line {end + 1}", lines.line_num
            if not values:
                continue
            if not header:
                header = _header(values, where)
                continue
            if len(values) > len(header):
                raise InputError(
                    f"{where}: {len(values)} values under {len(header)} columns; put values that hold "
                    f"{separator!r} in double quotes"
                )
            yield where, dict(zip(header, values, strict=False))
    except csv.Error as error:
        raise InputError(
            f"{location}, line {end + 1}: {error}; close each value that opens with a double "
            "quote, and write a quote within it twice"
        ) from None


def _separator(head: Sequence[str]) -> str:
    """The one that the header, the last of these lines, has most of; a header of one column needs none."""
    return max(_SEPARATORS, key="".join(head[-1:]).count)


def _header(values: Sequence[str], where: str) -> list[str]:
    names = [value.strip() for value in values]
    _refuse_twice(names, where)
    return names


def _refuse_twice(names: Sequence[str], where: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{where}: column {twice[0]!r} comes twice; give each its own name")


def _json_rows(location: str, text: Iterable[str]) -> Iterator[tuple[str, Row]]:
    """One object a line, or one list of objects. Only \\n ends a line: captions hold other ends of line."""
    head, lines = _lines(text, newline="\n")
    if "".join(head).lstrip().startswith("["):
        yield from _json_list(location, "".join(lines))
        return
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{location}, line {number}"
            yield where, _json_object(_json(line.removesuffix("\n"), where), where)


def _json_list(location: str, text: str) -> Iterator[tuple[str, Row]]:
    for number, row in enumerate(_json(text, location), start=1):
        where = f"{location}, row {number}"
        yield where, _json_object(row, where)


def _json(text: str, where: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise InputError(f"{where} is not JSON: {error}; write one object a line, or one list of them") from None


def _json_object(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise InputError(f'{where} is a {type(row).__name__}: write an object, such as {{"path": "a.mp4"}}')
    return {name: _plain(value) for name, value in row.items()}


def _parquet_rows(location: str) -> Iterator[tuple[str, Row]]:
    with storage.open_input(location) as stream:
        try:
            file = pq.ParquetFile(stream, buffer_size=_PIECE)
            names = _columns(location, file.schema_arrow)
            number = 0
            for batch in file.iter_batches(_ROWS, columns=names):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{location}, row {number}", {name: _plain(value) for name, value in row.items()}
        except storage.StorageError:
            raise
        except (pa.ArrowException, OSError, OverflowError) as error:  # damage, and times that no calendar has
            raise InputError(f"{location} cannot be read as Parquet: {error}; write it anew") from None


def _columns(location: str, schema: pa.Schema) -> list[str]:
    """Those that a sample's JSON can hold: pictures and vectors as bytes stay where they are. Locations are text, also
    where a writer did not say so."""
    _refuse_twice(schema.names, location)
    held = [field.name for field in schema if not _is_bytes(field) or field.name.lower() in LOCATION_COLUMNS]
    left = [field.name for field in schema if field.name not in held]
    if left:
        logger.warning("%s: columns of bytes are left out: %s", location, ", ".join(left))
    return held


def _is_bytes(field: pa.Field) -> bool:
    kind = field.type
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _plain(value: Any) -> Any:
    """What JSON can hold: times as ISO 8601, numbers that are none as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value if value is None or isinstance(value, str | int | bool) else _number_or_text(value)


def _number_or_text(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else str(value)
