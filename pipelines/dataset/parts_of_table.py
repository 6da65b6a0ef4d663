"""A table of a dataset: one Parquet file, or, where it was made in slices, a folder of them.

    manifest.parquet                     one file
    manifest/<number>-<digest>.parquet   parts, in order of key within and across
    manifest/_parts.json                 which parts there are, in order; written last, what it does not name is nothing

Parts are named by what they hold, so writing a table again leaves those alone that are as they were.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.dataset.tables import concat, decode, encode
from skyreels.storage import DamageError, Storage, open_input

_REMEDY = "run `jobs/curate.py verify` on the output that holds the dataset"


def is_there(storage: Storage, name: str) -> bool:
    """Whether the table `manifest.parquet`, say, is there, in whichever form."""
    return storage.exists(_index(name)) or storage.exists(name)


def files_of(storage: Storage, name: str) -> list[str]:
    """The files that hold it, in order. Raises DamageError where that cannot be told, FileNotFoundError for none."""
    if not storage.exists(_index(name)):
        if not storage.exists(name):
            raise FileNotFoundError(f"{storage.location(name)} does not exist")
        return [name]
    try:
        files = json.loads(storage.read(_index(name)))["files"]
        return [f"{_folder(name)}/{file}" for file in files]
    except (ValueError, KeyError, TypeError) as error:
        raise DamageError(f"{storage.location(_index(name))} is damaged ({error}): {_REMEDY}") from error


def tables_of(storage: Storage, name: str, remedy: str = _REMEDY) -> Iterator[pa.Table]:
    """Its parts, one after another. Raises DamageError for one that is not as it was written."""
    for file in files_of(storage, name):
        yield decode(storage.read(file), storage.location(file), remedy)


def table_of(storage: Storage, name: str, remedy: str = _REMEDY) -> pa.Table:
    """The whole table."""
    return concat(list(tables_of(storage, name, remedy)))


def column_between(
    storage: Storage, name: str, column: str, first: str, last: str | None, remedy: str = _REMEDY
) -> list[str]:
    """A column of the rows between two keys, the last None: all that follow. Parts that have none are not read."""
    found: list[str] = []
    for file in files_of(storage, name):
        where = storage.location(file)
        try:
            with open_input(where) as stream, pq.ParquetFile(stream, page_checksum_verification=True) as parquet:
                held = [g for g in range(parquet.num_row_groups) if _overlaps(parquet, g, first, last)]
                if not held:  # a part that holds nothing has no column but those of every table
                    continue
                rows = parquet.read_row_groups(held, columns=list(dict.fromkeys(["key", column])))
        except (pa.ArrowException, OSError) as error:
            raise DamageError(f"{where} is damaged ({error}): {remedy}") from error
        keys, values = rows["key"].to_pylist(), rows[column].to_pylist()
        found += [v for key, v in zip(keys, values, strict=True) if first <= key and (last is None or key <= last)]
    return found


def fingerprint(storage: Storage, name: str) -> str:
    """16 hex digits that change with what it holds."""
    held = _index(name) if storage.exists(_index(name)) else name
    return hashlib.sha256(storage.read(held)).hexdigest()[:16]


def write_part(storage: Storage, name: str, number: int, table: pa.Table) -> str:
    """Write a part, which is nothing until `publish` names it; its file's name."""
    data = encode(table)
    file = f"{number:06d}-{hashlib.sha256(data).hexdigest()[:16]}.parquet"
    storage.write(f"{_folder(name)}/{file}", data)
    return file


def is_published(storage: Storage, name: str, files: Sequence[str]) -> bool:
    """Whether the table that is there is made of these parts."""
    return storage.exists(_index(name)) and storage.read(_index(name)) == _named(files)


def publish(storage: Storage, name: str, files: Sequence[str]) -> None:
    """From here on the table is these parts, and no others."""
    storage.write(_index(name), _named(files))
    storage.delete(name)
    for held in storage.names(_folder(name)):
        if held.rpartition("/")[2] not in {*files, "_parts.json"}:
            storage.delete(held)


def publish_file(storage: Storage, name: str, data: bytes) -> None:
    """From here on the table is this one file."""
    storage.write(name, data)
    for held in [_index(name), *storage.names(_folder(name))]:  # the index first: what it names is there until then
        storage.delete(held)


def _overlaps(file: pq.ParquetFile, group: int, first: str, last: str | None) -> bool:
    column = file.schema_arrow.get_field_index("key")
    if not file.metadata.row_group(group).num_rows:
        return False
    seen = file.metadata.row_group(group).column(column).statistics
    if seen is None or not seen.has_min_max:
        return True
    return first <= seen.max and (last is None or seen.min <= last)


def _named(files: Sequence[str]) -> bytes:
    return json.dumps({"files": list(files)}, indent=1).encode()


def _folder(name: str) -> str:
    return name.removesuffix(".parquet")


def _index(name: str) -> str:
    return f"{_folder(name)}/_parts.json"
