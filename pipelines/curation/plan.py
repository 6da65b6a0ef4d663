"""Deterministic parts: which sources are committed together, and which parts are still to do.

A plan is written before any work and never changed. A later run keeps every earlier plan and adds one for the
sources it has not seen, so an interrupted run resumes with the very same parts, and new data touches only new ones.
Sources whose bytes changed are planned again; what else changed of them (captions, licences) is kept in `_seen`.
"""

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.curation.changes import find_changes
from pipelines.curation.recipe import ExtractConfig
from pipelines.curation.records import Source
from skyreels.commits import CommitLog, stable_json
from skyreels.storage import Storage

_FOLDER = "_plan"
_SEEN = "_seen"


@dataclass(frozen=True)
class Part:
    """Sources that one task takes from raw media to committed shards."""

    part_id: str
    sources: tuple[Source, ...]
    attempt: int = 1


@dataclass(frozen=True)
class Plan:
    """Every part planned so far, the new ones last; `seen` are sources as a later run than their plan's saw them."""

    parts: tuple[Part, ...]
    seen: Mapping[str, Source] = field(default_factory=dict)

    @property
    def sources(self) -> dict[str, Source]:
        return {source.source_id: source for part in self.parts for source in part.sources} | dict(self.seen)

    def committed(self, commits: CommitLog) -> dict[str, str]:
        """Source id -> the last committed part that it is in."""
        done = commits.done()
        return {s.source_id: part.part_id for part in self.parts if part.part_id in done for s in part.sources}

    def remaining(self, commits: CommitLog) -> list[Part]:
        """The parts that have no commit yet, with their sources as they are now."""
        done = commits.done()
        left = [part for part in self.parts if part.part_id not in done]
        return [replace(part, sources=tuple(self.seen.get(s.source_id, s) for s in part.sources)) for part in left]


def extend_plan(
    pool: Storage, sources: Sequence[Source], extract: ExtractConfig, *, attempt: int = 1, write: bool = True
) -> Plan:
    """The stored plan, with a new generation for sources that are not in it or whose bytes changed.

    A replay (`attempt` > 1) plans its sources again whatever earlier plans say.
    """
    stored = read_plan(pool, extract)
    if attempt > 1:
        return _grown(pool, stored, make_parts(sources, extract, attempt), {}, extract, write=write)
    known = stored.sources
    parts = make_parts([source for source in sources if source.source_id not in known], extract)
    changes = find_changes(known, sources, stored.committed(CommitLog(pool)), pool)
    again = make_parts(changes.content, extract, generation=len(pool.names(_FOLDER)))
    described = {source.source_id: source for source in changes.described}
    return _grown(pool, stored, [*parts, *again], described, extract, write=write)


def _grown(
    pool: Storage,
    stored: Plan,
    parts: Sequence[Part],
    described: Mapping[str, Source],
    extract: ExtractConfig,
    *,
    write: bool,
) -> Plan:
    planned = {part.part_id for part in stored.parts}
    fresh = [part for part in parts if part.part_id not in planned]
    if described and write:
        rows = [{"source": source.model_dump_json()} for source in described.values()]
        pool.write(f"{_SEEN}/{len(pool.names(_SEEN)):06d}.parquet", _table(rows))
    if fresh and write:
        generation = len(pool.names(_FOLDER))
        pool.write(f"{_FOLDER}/{generation:06d}-{extract.identity}.parquet", _encode(fresh))
    return Plan((*stored.parts, *fresh), {**stored.seen, **described})


def read_plan(pool: Storage, extract: ExtractConfig) -> Plan:
    """What earlier runs with this extraction planned, and saw last."""
    names = [name for name in pool.names(_FOLDER) if name.endswith(f"-{extract.identity}.parquet")]
    parts = tuple(part for name in names for part in _decode(pool.read(name)))
    planned = {source.source_id for part in parts for source in part.sources}
    seen: dict[str, Source] = {}
    for name in pool.names(_SEEN):
        for row in pq.read_table(io.BytesIO(pool.read(name))).to_pylist():
            source = Source.model_validate_json(row["source"])
            seen[source.source_id] = source
    return Plan(parts, {source_id: source for source_id, source in seen.items() if source_id in planned})


def planned_sources(pool: Storage) -> list[Source]:
    """Every source of every plan, whatever extraction it was for."""
    names = [name for name in pool.names(_FOLDER) if name.endswith(".parquet")]
    found = {s.source_id: s for name in names for part in _decode(pool.read(name)) for s in part.sources}
    return list(found.values())


def make_parts(
    sources: Sequence[Source], extract: ExtractConfig, attempt: int = 1, *, generation: int = 0
) -> list[Part]:
    """Consecutive sources grouped up to the configured count and bytes.

    `generation` is of sources that are planned again because they changed: one may come back to what it was.
    """
    groups: list[list[Source]] = []
    size = 0
    for source in sources:
        full = not groups or len(groups[-1]) >= extract.parts.max_sources
        if full or size + source.size > extract.parts.max_bytes:
            groups.append([])
            size = 0
        groups[-1].append(source)
        size += source.size
    return [Part(_part_id(group, extract, attempt, generation), tuple(group), attempt) for group in groups]


def _part_id(sources: Iterable[Source], extract: ExtractConfig, attempt: int, generation: int) -> str:
    named: list[object] = [[[s.source_id, s.size] for s in sources], extract.identity, attempt]
    return hashlib.blake2b(stable_json(named + [generation] * bool(generation)), digest_size=10).hexdigest()


def _encode(parts: Sequence[Part]) -> bytes:
    rows = [
        {"part_id": part.part_id, "attempt": part.attempt, "source": source.model_dump_json()}
        for part in parts
        for source in part.sources
    ]
    return _table(rows)


def _table(rows: Sequence[Mapping[str, object]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), buffer)
    return buffer.getvalue()


def _decode(data: bytes) -> list[Part]:
    parts: dict[str, tuple[int, list[Source]]] = {}
    for row in pq.read_table(io.BytesIO(data)).to_pylist():
        _, sources = parts.setdefault(row["part_id"], (row["attempt"], []))
        sources.append(Source.model_validate_json(row["source"]))
    return [Part(part_id, tuple(sources), attempt) for part_id, (attempt, sources) in parts.items()]
