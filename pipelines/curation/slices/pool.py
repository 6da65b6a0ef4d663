"""The pool in slices of its sources: what `read_pool` gives, a slice at a time, and read by tasks.

scatter   each stored plan: its committed parts, their clips and sources, sent by source
gather    each slice: of every source the last part that it is in, as it was last seen
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.curation.pool import tables
from pipelines.curation.pool.plan import plan_files, read_plan_file, read_seen_file, seen_files
from pipelines.curation.pool.read import Pool, read_part
from pipelines.curation.recipe import ExtractConfig
from pipelines.curation.slices.estimate import POOL_ROW_BYTES, TASK_ROW_BYTES
from pipelines.dataset.exchange import Facts, Steps, read, receive, send, write
from pipelines.dataset.tables import concat
from skyreels.commits import CommitLog
from skyreels.storage import Storage

SLICE_BYTES = 64 << 20  # of the tables of clips, as they are stored
_MOST = 2048
_SEEN = pa.schema({"source_id": pa.string(), "meta": pa.string(), "order": pa.int64()})


@dataclass(frozen=True)
class PoolSlices(Sequence[Pool]):
    """The slices, in order of source; each is read when it is asked for."""

    store: Storage
    slices: int

    def __len__(self) -> int:
        return self.slices

    def __getitem__(self, index: int) -> Pool:  # type: ignore[override]
        if not 0 <= index < self.slices:
            raise IndexError(index)
        return Pool(*(read(self.store, f"gather/{what}/{index:06d}") for what in ("clips", "sources")))


def slice_count(pool: Storage) -> int:
    """How many slices a pool is read in: one, unless it is large."""
    return min(_MOST, max(1, -(-_stored_bytes(pool) // SLICE_BYTES)))


def task_bytes(pool: Storage) -> int:
    """The memory that the task of a slice is given."""
    rows = _stored_bytes(pool) / POOL_ROW_BYTES.value / slice_count(pool)
    return int(rows * TASK_ROW_BYTES.value)


def _stored_bytes(pool: Storage) -> int:
    return sum(entry.size for entry in pool.files("clips"))


def slice_of(source_ids: Sequence[str], count: int) -> NDArray[np.int64]:
    """The slice of each source: ids are hashes, so ranges of them are of equal size."""
    return np.array([int(source_id[:8], 16) * count >> 32 for source_id in source_ids], np.int64)


def slice_of_keys(keys: Sequence[str], count: int) -> NDArray[np.int64]:
    """The slice of each clip."""
    return slice_of([key.rpartition("_")[0] for key in keys], count)


def slice_pool(steps: Steps, pool: Storage, extract: ExtractConfig, count: int) -> PoolSlices:
    """What is committed for the stored plans of an extraction, in `count` slices."""
    plans, seen = plan_files(pool, extract), seen_files(pool)
    steps.run("scatter", _Scatter(steps.store, pool, tuple(plans), tuple(seen), count), len(plans) + len(seen))
    steps.run("gather", _Gather(steps.store, len(plans) + len(seen)), count)
    return PoolSlices(steps.store, count)


@dataclass(frozen=True)
class _Scatter:
    """The parts of one stored plan, or what was seen of sources later, sent to their slices."""

    store: Storage
    pool: Storage
    plans: tuple[str, ...]
    seen: tuple[str, ...]
    count: int

    def __call__(self, index: int) -> Facts:
        clips, sources, seen = [tables.clip_table([])], [tables.source_table([])], _SEEN.empty_table()
        if index < len(self.plans):
            for place, part in enumerate(read_plan_file(self.pool, self.plans[index])):
                if self.pool.exists(CommitLog(self.pool).name_of(part.part_id)):
                    mine = dict.fromkeys((source.source_id for source in part.sources), part.part_id)
                    found = read_part(CommitLog(self.pool), part, mine)
                    clips.append(_ordered(found[0], index << 32 | place))
                    sources.append(_ordered(found[1], index << 32 | place))
        else:
            rows = read_seen_file(self.pool, self.seen[index - len(self.plans)])
            meta = [json.dumps(source.meta, default=str) for source in rows]
            ids = [source.source_id for source in rows]
            seen = pa.table([ids, meta, np.full(len(ids), index)], schema=_SEEN)
        for what, table in (("clips", concat(clips)), ("sources", concat(sources)), ("seen", seen)):
            receivers = slice_of(table["source_id"].to_pylist(), self.count)
            send(self.store, f"scatter/{what}/{index:06d}", table, receivers)
        return {"sources": sum(map(len, sources))}


@dataclass(frozen=True)
class _Gather:
    """Of every source of a slice what its last part says, in order of source and key."""

    store: Storage
    senders: int

    def __call__(self, index: int) -> Facts:
        clips, sources, seen = (
            receive(self.store, f"scatter/{what}", self.senders, index) for what in ("clips", "sources", "seen")
        )
        last = _last(sources)
        clips, sources = (_only(table, last) for table in (clips, sources))
        write(self.store, f"gather/clips/{index:06d}", clips.sort_by("key"))
        write(self.store, f"gather/sources/{index:06d}", _as_seen(sources.sort_by("source_id"), seen))
        return {"clips": len(clips), "sources": len(sources)}


def _ordered(table: pa.Table, order: int) -> pa.Table:
    return table.append_column("order", pa.array(np.full(len(table), order, np.int64)))


def _last(rows: pa.Table) -> pa.Table:
    if "order" not in rows.column_names:
        return pa.table({"source_id": pa.array([], pa.string()), "order_max": pa.array([], pa.int64())})
    return rows.group_by("source_id").aggregate([("order", "max")])


def _only(rows: pa.Table, last: pa.Table) -> pa.Table:
    """The rows of the last part of each source."""
    if "order" not in rows.column_names:
        return rows
    place = pc.index_in(rows["source_id"], last["source_id"].combine_chunks())
    wanted = last["order_max"].combine_chunks().take(place.combine_chunks())
    return rows.filter(pc.equal(rows["order"], wanted)).drop_columns(["order"])


def _as_seen(sources: pa.Table, seen: pa.Table) -> pa.Table:
    """With what inputs last said of them."""
    said = {row["source_id"]: row["meta"] for row in seen.sort_by("order").to_pylist()}
    ids, stored = sources["source_id"].to_pylist(), sources["meta"].to_pylist()
    meta = [said.get(source_id, was) for source_id, was in zip(ids, stored, strict=True)]
    return sources.set_column(sources.column_names.index("meta"), "meta", pa.array(meta, pa.string()))
