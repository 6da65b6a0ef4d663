"""Writing the rows of a cache: bucket by bucket, sorted, in flat memory; the same samples give the same bytes."""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from pipelines.training.data.held_out import smallest_of
from pipelines.training.latents.rows.table import BLOCK, SCHEMA, Contents, IndexEntry, TableFacts, checksum, numbers
from pipelines.training.latents.spec import clip_of
from skyreels.commits import CommittedFile, describe
from skyreels.storage import Storage

T = TypeVar("T")
Group = tuple[str, Sequence[IndexEntry]]
"""The key of the first clip of a part, and the samples of the part."""

_SHARDS = pa.schema([("shard", pa.string())])
_PLAIN = tuple(name for name in SCHEMA.names if name not in ("contents", "shard"))
_HELD = tuple(Contents.model_fields)
_held = attrgetter(*_HELD)


def write_tables(storage: Storage, parts: Iterable[Group]) -> dict[str, TableFacts]:
    """Tables by bucket, of parts in order of bucket and of their first clip, as they are planned."""
    filled = ((first, entries) for first, entries in parts if entries)
    by_bucket = groupby(filled, key=lambda part: part[1][0].bucket)
    return {bucket: write_table(storage, bucket, in_order(groups)) for bucket, groups in by_bucket}


def in_order(parts: Iterable[Group]) -> Iterator[IndexEntry]:
    """The samples of parts by key. Keys of samples begin with their clip's, so none that comes later is before the
    first clip of its part: those that are smaller are handed on, and few wait."""
    waiting: list[tuple[str, int, IndexEntry]] = []
    number = 0
    for first, entries in parts:
        while waiting and waiting[0][0] < first:
            yield heapq.heappop(waiting)[2]
        for entry in entries:
            heapq.heappush(waiting, (entry.key, number, entry))
            number += 1
    while waiting:
        yield heapq.heappop(waiting)[2]


def write_table(storage: Storage, bucket: str, entries: Iterable[IndexEntry]) -> TableFacts:
    """One bucket's files; `entries`, at least one, in order of key."""
    seen = _Seen()
    with ExitStack() as files:
        path = files.enter_context(storage.staged(_name(bucket, "rows")))
        write_blocks(path, SCHEMA, map(seen.block, _blocks_of(entries)))
        return TableFacts(
            seconds=seen.seconds,
            contents=tuple(Contents(**dict(zip(_HELD, held, strict=True))) for held in seen.contents),
            counts=tuple(seen.counts[number] for number in range(len(seen.contents))),
            smallest=tuple(seen.smallest),
            rows=describe(_name(bucket, "rows"), path),
            shards=_written(files, storage, _name(bucket, "shards"), _SHARDS, _names(seen.shards)),
            blocks=_written(files, storage, _name(bucket, "blocks"), *summarised(path, len(seen.contents))),
        )


class _Seen:
    """What the samples of a table hold, and where they lie, numbered as they come."""

    def __init__(self) -> None:
        self.contents: dict[tuple[Any, ...], int] = {}
        self.shards: dict[str, int] = {}
        self.counts: Counter[int] = Counter()
        self.smallest: list[str] = []
        self.seconds = 0.0

    def block(self, entries: Sequence[IndexEntry]) -> pa.RecordBatch:
        numbers = [self.contents.setdefault(_held(entry), len(self.contents)) for entry in entries]
        self.counts.update(numbers)
        self.smallest = smallest_of([*self.smallest, *(clip_of(entry.key) for entry in entries)])
        self.seconds = entries[0].seconds
        columns = {name: [getattr(entry, name) for entry in entries] for name in _PLAIN}
        columns["contents"] = numbers
        columns["shard"] = [self.shards.setdefault(entry.shard, len(self.shards)) for entry in entries]
        return pa.RecordBatch.from_pydict({name: columns[name] for name in SCHEMA.names}, SCHEMA)


def write_blocks(path: Path, schema: pa.Schema, blocks: Iterable[pa.RecordBatch]) -> None:
    """An Arrow file; all blocks but the last have `BLOCK` rows, so that a row tells its block."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for block in blocks:
            writer.write_batch(block)


def summarised(path: Path, contents: int) -> tuple[pa.Schema, list[pa.RecordBatch]]:
    """What is said of each block of rows, from the file as it was written: one block itself."""
    schema = pa.schema([("crc32", pa.uint32()), ("first", pa.string()), ("before", pa.list_(pa.int64(), contents))])
    with pa.memory_map(str(path)) as mapped:
        rows = pa.ipc.open_file(mapped)
        crc32, first, before = [], [], [np.zeros(contents, np.int64)]
        for number in range(rows.num_record_batches):
            block = rows.get_batch(number)
            crc32.append(checksum(block))
            first.append(block["key"][0].as_py())
            before.append(before[-1] + np.bincount(numbers(block["contents"], np.uint16), minlength=contents))
    counted = pa.FixedSizeListArray.from_arrays(np.concatenate(before[:-1]), contents)
    return schema, [pa.RecordBatch.from_arrays([pa.array(crc32, pa.uint32()), pa.array(first), counted], schema=schema)]


def _names(shards: Iterable[str]) -> Iterator[pa.RecordBatch]:
    for block in _blocks_of(shards):
        yield pa.RecordBatch.from_pydict({"shard": block}, _SHARDS)


def _blocks_of(values: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(values)
    while block := list(islice(rest, BLOCK)):
        yield block


def _written(
    files: ExitStack, storage: Storage, name: str, schema: pa.Schema, blocks: Iterable[pa.RecordBatch]
) -> CommittedFile:
    path = files.enter_context(storage.staged(name))
    write_blocks(path, schema, blocks)
    return describe(name, path)


def _name(bucket: str, kind: str) -> str:
    return f"index/{bucket}.{kind}.arrow"
