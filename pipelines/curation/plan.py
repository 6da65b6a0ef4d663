"""Deterministic parts: which sources are committed together, and which parts are still to do.

A plan is written before any work and never changed. A later run keeps every earlier plan and adds one for the
sources it has not seen, so an interrupted run resumes with the very same parts, and new data touches only new ones.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipelines.curation import tables
from pipelines.curation.recipe import ExtractConfig
from pipelines.curation.records import Source
from pipelines.curation.sources import is_there
from skyreels.commits import CommitLog, stable_json
from skyreels.storage import Storage

_FOLDER = "_plan"
_PLAN = re.compile(rf"{_FOLDER}/[0-9]{{6}}-[0-9a-f]+\.parquet")
_LOST_PLAN = (
    "restore it from a copy, or delete it and curate the same inputs again: parts that come out as they were are "
    "not done anew"
)


@dataclass(frozen=True)
class Part:
    """Sources that one task takes from raw media to committed shards."""

    part_id: str
    sources: tuple[Source, ...]
    attempt: int = 1


@dataclass(frozen=True)
class Plan:
    """Every part planned so far, the new ones last."""

    parts: tuple[Part, ...]

    @property
    def sources(self) -> dict[str, Source]:
        return {source.source_id: source for part in self.parts for source in part.sources}

    def remaining(self, commits: CommitLog) -> list[Part]:
        """The parts that are not committed, or whose files are not there as committed and can be made anew."""
        begun, intact = commits.done(), commits.intact()
        left = [part for part in self.parts if part.part_id not in intact]
        return [part for part in left if part.part_id not in begun or can_be_made(part)]


def extend_plan(
    pool: Storage, sources: Sequence[Source], extract: ExtractConfig, *, attempt: int = 1, write: bool = True
) -> Plan:
    """The stored plan, with a new generation for sources that are not in it.

    A replay (`attempt` > 1) plans its sources again whatever earlier plans say.
    """
    stored = read_plan(pool, extract)
    known = stored.sources
    fresh = [s for s in sources if attempt > 1 or known.get(s.source_id, None) is None]
    changed = [s for s in sources if attempt == 1 and s.source_id in known and known[s.source_id].size != s.size]
    parts = make_parts([*fresh, *changed], extract, attempt)
    planned = {part.part_id for part in stored.parts}
    parts = [part for part in parts if part.part_id not in planned]
    if parts and write:
        generation = 1 + max((int(name[len(_FOLDER) + 1 :][:6]) for name in _plans(pool)), default=-1)
        pool.write(f"{_FOLDER}/{generation:06d}-{extract.identity}.parquet", _encode(parts))
    return Plan((*stored.parts, *parts))


def read_plan(pool: Storage, extract: ExtractConfig) -> Plan:
    """What earlier runs with this extraction planned."""
    names = [name for name in _plans(pool) if name.endswith(f"-{extract.identity}.parquet")]
    return Plan(tuple(part for name in names for part in _decode(pool, name)))


def planned_sources(pool: Storage) -> list[Source]:
    """Every source of every plan, whatever extraction it was for."""
    found = {s.source_id: s for name in _plans(pool) for part in _decode(pool, name) for s in part.sources}
    return list(found.values())


def can_be_made(part: Part) -> bool:
    """Whether every source of a part is there: making it without one would lose what the pool still holds of it."""
    return all(is_there(source) for source in part.sources)


def make_parts(sources: Sequence[Source], extract: ExtractConfig, attempt: int = 1) -> list[Part]:
    """Consecutive sources grouped up to the configured count and bytes."""
    groups: list[list[Source]] = []
    size = 0
    for source in sources:
        full = not groups or len(groups[-1]) >= extract.parts.max_sources
        if full or size + source.size > extract.parts.max_bytes:
            groups.append([])
            size = 0
        groups[-1].append(source)
        size += source.size
    return [Part(_part_id(group, extract, attempt), tuple(group), attempt) for group in groups]


def _part_id(sources: Iterable[Source], extract: ExtractConfig, attempt: int) -> str:
    named = [[s.source_id, s.size] for s in sources]
    return hashlib.blake2b(stable_json([named, extract.identity, attempt]), digest_size=10).hexdigest()


def _plans(pool: Storage) -> list[str]:
    """Names of the stored plans, the oldest first."""
    return [name for name in pool.names(_FOLDER) if _PLAN.fullmatch(name)]


def _encode(parts: Sequence[Part]) -> bytes:
    rows = [
        {"part_id": part.part_id, "attempt": part.attempt, "source": source.model_dump_json()}
        for part in parts
        for source in part.sources
    ]
    return tables.encode(pa.Table.from_pylist(rows))


def _decode(pool: Storage, name: str) -> list[Part]:
    table = tables.decode(pool.read(name), pool.location(name), _LOST_PLAN)
    parts: dict[str, tuple[int, list[Source]]] = {}
    for row in table.to_pylist():
        _, sources = parts.setdefault(row["part_id"], (row["attempt"], []))
        sources.append(Source.model_validate_json(row["source"]))
    return [Part(part_id, tuple(sources), attempt) for part_id, (attempt, sources) in parts.items()]
