"""Deterministic parts: which sources are committed together, and which parts are still to do.

A plan is written before any work and never changed. A later run keeps every earlier plan and adds one for the
sources it has not seen, so an interrupted run resumes with the very same parts, and new data touches only new ones.
Sources whose bytes changed are planned again; what else changed of them (captions, licences) is kept in `_seen`.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.curation.pool.changes import find_changes
from pipelines.curation.recipe import ExtractConfig
from pipelines.curation.records import Kind, Source
from pipelines.curation.sources.find import is_there
from pipelines.dataset.tables import Row, decode, encode
from skyreels.commits import CommitLog, stable_json
from skyreels.storage import DamageError, Storage, open_input

_PICTURES = 32  # that count as one source: they take a hundredth of a film's work, and a commit costs as much
_FOLDER = "_plan"
_SEEN = "_seen"
_SOURCES_PER_FILE = 1 << 16
_ROWS, _PIECE = 1 << 10, 1 << 20  # sources, and bytes of a column, of a stored plan that is looked through
_STORED = re.compile(r"[0-9]{6}(-[0-9a-f]+)?\.parquet")
_LOST = (
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
    """Every part planned so far, the new ones last; `seen` are sources as a later run than their plan's saw them."""

    parts: tuple[Part, ...]
    seen: Mapping[str, Source] = field(default_factory=dict)

    @property
    def sources(self) -> dict[str, Source]:
        return {source.source_id: source for part in self.parts for source in part.sources} | dict(self.seen)

    @property
    def current(self) -> list[Part]:
        """The parts, with their sources as they are now."""
        return [
            replace(part, sources=tuple(self.seen.get(s.source_id, s) for s in part.sources)) for part in self.parts
        ]

    def committed(self, commits: CommitLog) -> dict[str, str]:
        """Source id -> the last committed part that it is in."""
        done = commits.done()
        return {s.source_id: part.part_id for part in self.parts if part.part_id in done for s in part.sources}

    def remaining(self, commits: CommitLog) -> list[Part]:
        """The parts that are not committed, or whose files are not there as committed and can be made anew; with their
        sources as they are now."""
        begun = commits.done()
        mine = [part.part_id for part in self.parts if part.part_id in begun]
        intact = {commit.part_id for commit in commits.intact_of(mine)}
        left = [part for part in self.current if part.part_id not in intact]
        return [part for part in left if part.part_id not in begun or can_be_made(part)]


def extend_plan(
    pool: Storage, sources: Sequence[Source], extract: ExtractConfig, *, attempt: int = 1, write: bool = True
) -> Plan:
    """The stored plan, with a new generation for sources that are not in it or whose bytes changed.

    A replay (`attempt` > 1) plans its sources again whatever earlier plans say.
    """
    return _extended(pool, read_plan(pool, extract), sources, extract, attempt, write=write)


def store_plan(pool: Storage, sources: Sequence[Source], extract: ExtractConfig, *, attempt: int = 1) -> None:
    """The same, written only: of the stored plan nothing is held but the parts that these sources are in."""
    _extended(pool, _touched_by(sources, pool, extract), sources, extract, attempt, write=True)


def added(pool: Storage, sources: Sequence[Source], extract: ExtractConfig) -> Plan:
    """What `store_plan` would add: new parts, and what is now seen of sources of others."""
    stored = _touched_by(sources, pool, extract)
    grown = _extended(pool, stored, sources, extract, 1, write=False)
    seen = {source_id: one for source_id, one in grown.seen.items() if stored.seen.get(source_id) != one}
    return Plan(grown.parts[len(stored.parts) :], seen)


def touched(
    pool: Storage, extract: ExtractConfig, source_ids: Collection[str], first: str = "", last: str | None = None
) -> Plan:
    """Of the stored plan the parts that hold one of these sources; a file of it is read at a time, and none that has no
    location from the `first` to the `last` of theirs, where these are known."""
    parts = tuple(
        part
        for name in plan_files(pool, extract)
        if _reaches(pool, name, first, last)
        for part in read_plan_file(pool, name)
        if any(source.source_id in source_ids for source in part.sources)
    )
    return Plan(parts, _seen_of(pool, parts))


def stored_plans(pool: Storage, extract: ExtractConfig) -> Iterator[Plan]:
    """The stored plan, a file of it at a time."""
    for name in plan_files(pool, extract):
        parts = tuple(read_plan_file(pool, name))
        yield Plan(parts, _seen_of(pool, parts))


def _touched_by(sources: Sequence[Source], pool: Storage, extract: ExtractConfig) -> Plan:
    places = [source.uri for source in sources] or [""]
    return touched(pool, extract, {source.source_id for source in sources}, min(places), max(places))


def remaining_parts(pool: Storage, extract: ExtractConfig) -> Iterator[list[Part]]:
    """`Plan.remaining` of the stored plan, as many parts at a time as a file of it holds."""
    held: list[Part] = []
    for plan in stored_plans(pool, extract):
        held += plan.remaining(CommitLog(pool))
        while sum(len(part.sources) for part in held) >= _SOURCES_PER_FILE:
            first = next(_in_files(held))
            yield first
            held = held[len(first) :]
    if held:
        yield held


def _extended(
    pool: Storage, stored: Plan, sources: Sequence[Source], extract: ExtractConfig, attempt: int, *, write: bool
) -> Plan:
    if attempt > 1:
        return _grown(pool, stored, make_parts(sources, extract, attempt), {}, extract, write=write)
    known = stored.sources
    parts = make_parts([source for source in sources if source.source_id not in known], extract)
    changes = find_changes(known, sources, stored.committed(CommitLog(pool)), pool)
    again = make_parts(changes.content, extract, generation=_next(pool, _FOLDER))
    described = {source.source_id: source for source in changes.described}
    return _grown(pool, stored, [*parts, *again], described, extract, write=write)


def _seen_of(pool: Storage, parts: Iterable[Part]) -> dict[str, Source]:
    """What was last seen of the sources of these parts."""
    planned = {source.source_id for part in parts for source in part.sources}
    seen: dict[str, Source] = {}
    for name in seen_files(pool):
        seen |= {source.source_id: source for source in read_seen_file(pool, name) if source.source_id in planned}
    return seen


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
        pool.write(f"{_SEEN}/{_next(pool, _SEEN):06d}.parquet", encode(pa.Table.from_pylist(rows)))
    if write:
        for some in _in_files(fresh):
            pool.write(f"{_FOLDER}/{_next(pool, _FOLDER):06d}-{extract.identity}.parquet", _encode(some))
    return Plan((*stored.parts, *fresh), {**stored.seen, **described})


def read_plan(pool: Storage, extract: ExtractConfig) -> Plan:
    """What earlier runs with this extraction planned, and saw last. Raises DamageError for what cannot be read."""
    parts = tuple(part for name in plan_files(pool, extract) for part in read_plan_file(pool, name))
    return Plan(parts, _seen_of(pool, parts))


def plan_files(pool: Storage, extract: ExtractConfig) -> list[str]:
    """The stored plans of an extraction, the oldest first."""
    return [name for name in _stored(pool, _FOLDER) if name.endswith(f"-{extract.identity}.parquet")]


def seen_files(pool: Storage) -> list[str]:
    """What later runs saw of planned sources, the oldest first."""
    return _stored(pool, _SEEN)


def read_seen_file(pool: Storage, name: str) -> list[Source]:
    return [Source.model_validate_json(row["source"]) for row in _read(pool, name)]


def planned_sources(pool: Storage, may_be: Callable[[str, str], bool] | None = None) -> Iterator[Source]:
    """Every source of every plan, whatever extraction it was for, as often as it was planned; a few are held at a time.

    `may_be(location, all that is known as JSON)` tells which are looked at; None: all of them.
    """
    for name in _stored(pool, _FOLDER):
        for uri, text in _texts(pool, name):
            if may_be is None or may_be(uri, text):
                yield Source.model_validate_json(text)


def can_be_made(part: Part) -> bool:
    """Whether every source of a part is there: making it without one would lose what the pool still holds of it."""
    return all(is_there(source) for source in part.sources)


def make_parts(
    sources: Sequence[Source], extract: ExtractConfig, attempt: int = 1, *, generation: int = 0
) -> list[Part]:
    """Consecutive sources grouped up to the configured count and bytes; of pictures, 32 times that count.

    `generation` is of sources that are planned again because they changed: one may come back to what it was.
    """
    groups: list[list[Source]] = []
    count = size = 0
    for source in sources:
        weight = 1 if source.kind is Kind.IMAGE else _PICTURES
        full = not groups or count + weight > extract.parts.max_sources * _PICTURES
        if full or size + source.size > extract.parts.max_bytes:
            groups.append([])
            count = size = 0
        groups[-1].append(source)
        count += weight
        size += source.size
    return [Part(_part_id(group, extract, attempt, generation), tuple(group), attempt) for group in groups]


def _part_id(sources: Iterable[Source], extract: ExtractConfig, attempt: int, generation: int) -> str:
    named: list[object] = [[[s.source_id, s.size] for s in sources], extract.identity, attempt]
    return hashlib.blake2b(stable_json(named + [generation] * bool(generation)), digest_size=10).hexdigest()


def _stored(pool: Storage, folder: str) -> list[str]:
    """Names of the stored plans, or of what was seen, the oldest first."""
    return [name for name in pool.names(folder) if _STORED.fullmatch(name.removeprefix(f"{folder}/"))]


def _next(pool: Storage, folder: str) -> int:
    """The number of the next one; none is given twice."""
    return 1 + max((int(name.removeprefix(f"{folder}/")[:6]) for name in _stored(pool, folder)), default=-1)


def _reaches(pool: Storage, name: str, first: str, last: str | None) -> bool:
    """Whether a stored plan may have a location between two; plans of before do not say."""
    try:
        with open_input(pool.location(name)) as stream, pq.ParquetFile(stream) as file:
            column = file.schema_arrow.get_field_index("uri")
            groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
            seen = [group.column(column).statistics for group in groups] if column >= 0 else [None]
    except (pa.ArrowException, OSError):
        return True  # damaged: reading it says so
    return any(
        one is None or not one.has_min_max or (first <= one.max and (last is None or one.min <= last)) for one in seen
    )


def _encode(parts: Sequence[Part]) -> bytes:
    rows = [
        {
            "part_id": part.part_id,
            "attempt": part.attempt,
            "uri": source.uri,
            "source": source.model_dump_json(),
        }
        for part in parts
        for source in part.sources
    ]
    return encode(pa.Table.from_pylist(rows))


def _in_files(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """Parts as they are stored together: a file of them is read whole by one task."""
    held: list[Part] = []
    size = 0
    for part in parts:
        held.append(part)
        size += len(part.sources)
        if size >= _SOURCES_PER_FILE:
            yield held
            held, size = [], 0
    if held:
        yield held


def read_plan_file(pool: Storage, name: str) -> list[Part]:
    """The parts of one stored plan."""
    parts: dict[str, tuple[int, list[Source]]] = {}
    for row in _read(pool, name):
        _, sources = parts.setdefault(row["part_id"], (row["attempt"], []))
        sources.append(Source.model_validate_json(row["source"]))
    return [Part(part_id, tuple(sources), attempt) for part_id, (attempt, sources) in parts.items()]


def _texts(pool: Storage, name: str) -> Iterator[tuple[str, str]]:
    """Location and JSON of the sources of one stored plan, which is read a piece at a time."""
    where = pool.location(name)
    try:
        with (
            open_input(where) as stream,
            pq.ParquetFile(stream, buffer_size=_PIECE, page_checksum_verification=True) as file,
        ):
            columns = [column for column in ("uri", "source") if column in file.schema_arrow.names]
            for batch in file.iter_batches(_ROWS, columns=columns):
                texts = batch["source"].to_pylist()
                told = "uri" in columns  # plans of before do not tell
                uris = batch["uri"].to_pylist() if told else [json.loads(text)["uri"] for text in texts]
                yield from zip(uris, texts, strict=True)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DamageError(f"{where} is damaged ({reason}): {_LOST}") from error


def _read(pool: Storage, name: str) -> list[Row]:
    rows: list[Row] = decode(pool.read(name), pool.location(name), _LOST).to_pylist()
    return rows
