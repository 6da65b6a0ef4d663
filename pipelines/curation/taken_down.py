"""<output>/taken_down.json: which sources must never come back, by id and by content; and finding what a user names."""

import fnmatch
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from pipelines.curation.pool.plan import planned_sources
from pipelines.curation.purge import committed_table
from pipelines.curation.records import Source, TakenDown
from pipelines.curation.sources.find import opened
from skyreels.commits import CommitLog
from skyreels.leftovers import scratch_folder
from skyreels.locations import local_path, printable
from skyreels.storage import DamageError, Storage, is_file, is_remote, normalise, sha256_file

_FILE = "taken_down.json"


class NoSuchSource(LookupError):
    """A take-down that names nothing."""


@dataclass(frozen=True)
class Named:
    """What a take-down is of, id -> location: what was asked for, and sources with the same bytes."""

    asked: Mapping[str, str]
    copies: Mapping[str, str]
    sha256: frozenset[str]

    @property
    def source_ids(self) -> frozenset[str]:
        return frozenset({*self.asked, *self.copies})


_EARLIER: TypeAdapter[TakenDown | list[str]] = TypeAdapter(TakenDown | list[str])  # a list: ids alone, of before


def read_taken_down(root: Storage) -> TakenDown:
    """Raises DamageError where the file cannot be read: without it, what was taken down would come back."""
    if not root.exists(_FILE):
        return TakenDown()
    try:
        found = _EARLIER.validate_json(root.read(_FILE))
    except ValidationError as error:
        raise DamageError(
            f"{root.location(_FILE)} is damaged, so what was taken down is not known: restore it from a copy, or "
            "delete it and take the same sources down again before anything else"
        ) from error
    return found if isinstance(found, TakenDown) else TakenDown(source_ids=frozenset(found))


def note_taken_down(root: Storage, named: Named) -> None:
    """From here on no run lets them in again."""
    before = read_taken_down(root)
    after = TakenDown(source_ids=before.source_ids | named.source_ids, sha256=before.sha256 | named.sha256)
    lists = {"source_ids": sorted(after.source_ids), "sha256": sorted(after.sha256)}
    root.write(_FILE, TypeAdapter(dict[str, list[str]]).dump_json(lists, indent=1))


def find_named(root: Storage, patterns: Sequence[str], *, copies: bool) -> Named:
    """The sources of an output that patterns name: by location, id or glob; by another path to the same file; or as a
    file with the same bytes. With `copies` also those that hold the same bytes as one of these. Raises NoSuchSource.
    """
    known, contents = _known(root.sub("pool"))
    asked: dict[str, str] = {}
    for pattern in patterns:
        found = _by_name(pattern, known.values()) or _by_file(pattern, known.values(), contents)
        asked |= {source.source_id: source.uri for source in found}
    if not asked:
        names = ", ".join(map(printable, patterns))
        raise NoSuchSource(f"no source of {root.root} matches {names}: give a location, an id or a glob")
    if not copies:
        return Named(asked, {}, frozenset())
    held = {name: contents.get(name) or _content(known[name]) for name in asked}
    bytes_of = frozenset(content for content in held.values() if content)
    same = {name: known[name].uri for name, content in contents.items() if content in bytes_of and name not in asked}
    return Named(asked, same, bytes_of)


def _known(pool: Storage) -> tuple[dict[str, Source], dict[str, str]]:
    """Every source that was planned or committed, and the checksums of those that were read, by id."""
    known = {source.source_id: source for source in planned_sources(pool)}
    contents: dict[str, str] = {}
    for commit in CommitLog(pool).all():
        for row in committed_table(pool, commit, "sources/").to_pylist():
            facts = {name: row[name] for name in ("source_id", "uri", "kind", "size")}
            known.setdefault(row["source_id"], Source(**facts))
            contents[row["source_id"]] = row["sha256"]
    return known, contents


def _by_name(pattern: str, known: Iterable[Source]) -> list[Source]:
    """By location or id; a tar names all that is in it."""
    spelled = {pattern, normalise(pattern)}
    return [s for s in known if {s.uri, s.container, s.source_id} & spelled or fnmatch.fnmatchcase(s.uri, pattern)]


def _by_file(pattern: str, known: Iterable[Source], contents: Mapping[str, str]) -> list[Source]:
    """By what a path leads to: the same file under another name, or one with the same bytes."""
    path = local_path(pattern)
    if is_remote(pattern) or not path.is_file():
        return []
    real = os.path.realpath(path)
    files = [(s, s.container or s.uri) for s in known]
    same = [s for s, file in files if not is_remote(file) and os.path.realpath(local_path(file)) == real]
    content = sha256_file(path)
    return same + [s for s in known if contents.get(s.source_id) == content]


def _content(source: Source) -> str:
    """The checksum of a source that no run has read yet; empty where it is not there."""
    if not is_file(source.container or source.uri):
        return ""
    with scratch_folder("takedown") as scratch, opened(source, scratch) as path:
        return sha256_file(path)
