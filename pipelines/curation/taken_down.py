"""<output>/taken_down.json: which sources must never come back, by id and by content; and finding what a user names."""

import fnmatch
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
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

    Plans and commits are looked through, and only what is found is held.
    """
    pool = root.sub("pool")
    searches = [_Search(pattern) for pattern in patterns]
    _look_through_plans(pool, searches)
    contents = _look_through_commits(pool, searches)
    found = {source_id: source for search in searches for source_id, source in search.found.items()}
    if not found:
        names = ", ".join(map(printable, patterns))
        raise NoSuchSource(f"no source of {root.root} matches {names}: give a location, an id or a glob")
    asked = {source_id: source.uri for source_id, source in found.items()}
    if not copies:
        return Named(asked, {}, frozenset())
    held = (contents.get(source_id) or _content(source) for source_id, source in found.items())
    bytes_of = frozenset(content for content in held if content)
    return Named(asked, _copies(pool, bytes_of, asked), bytes_of)


class _Search:
    """What a user names, and the sources that it is found to name."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._spelled = {pattern, normalise(pattern)}
        self._tars = tuple(f"{name}#" for name in self._spelled)
        self._real = self._content = ""
        self._named: dict[str, Source] = {}
        self._same_file: dict[str, Source] = {}
        self._same_bytes: dict[str, Source] = {}

    @property
    def found(self) -> dict[str, Source]:
        return self._named or self._same_file | self._same_bytes

    def may_be(self, uri: str, text: str) -> bool:
        """Whether this may be the name of a source, by its location and all that is known of it."""
        return uri in self._spelled or uri.startswith(self._tars) or self._pattern in text or self._fits(uri)

    def take_named(self, source: Source) -> bool:
        """Take a source that is named by location or id; a tar names all that is in it."""
        names = {source.uri, source.container, source.source_id}
        if not (names & self._spelled or self._fits(source.uri)):
            return False
        self._named[source.source_id] = source
        return True

    def look_at_file(self) -> bool:
        """Where nothing has such a name: whether it is a path to a file, which is read for what `take_same` asks."""
        path = local_path(self._pattern)
        if self._named or is_remote(self._pattern) or not path.is_file():
            return False
        self._real, self._content = os.path.realpath(path), sha256_file(path)
        return True

    def take_same_file(self, source: Source) -> None:
        file = source.container or source.uri
        if self._real and not is_remote(file) and os.path.realpath(local_path(file)) == self._real:
            self._same_file[source.source_id] = source

    def take_committed(self, source: Source, content: str) -> bool:
        """Take what a commit tells of a source, by name, file or bytes; whether it is among what is found."""
        source_id = source.source_id
        if source_id not in self._named and not self.take_named(source):
            self._same_bytes.pop(source_id, None)  # of several commits of a source the last one holds
            if self._content and content == self._content:
                self._same_bytes[source_id] = source
            if "#" not in source.uri and source_id not in self._same_file:  # what may be in a tar, plans alone tell
                self.take_same_file(source)
        return any(source_id in found for found in (self._named, self._same_file, self._same_bytes))

    def _fits(self, uri: str) -> bool:
        return fnmatch.fnmatchcase(uri, self._pattern)


def _look_through_plans(pool: Storage, searches: Sequence[_Search]) -> None:
    for source in planned_sources(pool, lambda uri, text: any(search.may_be(uri, text) for search in searches)):
        for search in searches:
            search.take_named(source)
    files = [search for search in searches if search.look_at_file()]
    for source in planned_sources(pool) if files else ():
        for search in files:
            search.take_same_file(source)


def _look_through_commits(pool: Storage, searches: Sequence[_Search]) -> dict[str, str]:
    """The checksums of what is found and was read, by id."""
    contents: dict[str, str] = {}
    for source, sha256 in _committed(pool):
        taken = [search.take_committed(source, sha256) for search in searches]
        if any(taken):
            contents[source.source_id] = sha256
    return contents


def _copies(pool: Storage, bytes_of: Collection[str], asked: Collection[str]) -> dict[str, str]:
    """Id -> location of all others that have such bytes, by the last commit that each is in."""
    same: dict[str, str] = {}
    for source, sha256 in _committed(pool):
        same.pop(source.source_id, None)
        if sha256 in bytes_of and source.source_id not in asked:
            same[source.source_id] = source.uri
    return same


def _committed(pool: Storage) -> Iterator[tuple[Source, str]]:
    """The sources that were committed, in order of part, with the checksum of each that was read."""
    for commit in CommitLog(pool).all():
        table = committed_table(pool, commit, "sources/").select(["source_id", "uri", "kind", "size", "sha256"])
        for row in table.to_pylist():
            sha256 = row.pop("sha256")
            yield Source(**row), sha256


def _content(source: Source) -> str:
    """The checksum of a source that no run has read yet; empty where it is not there."""
    if not is_file(source.container or source.uri):
        return ""
    with scratch_folder("takedown") as scratch, opened(source, scratch) as path:
        return sha256_file(path)
