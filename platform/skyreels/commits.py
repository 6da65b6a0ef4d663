"""The commit protocol: a part's files become true when its commit record appears, and not before.

A part is a deterministic unit of work. Whoever runs it writes its files atomically (`Storage.staged`) and then,
last, one commit record that names them with their checksums. Readers trust only what a commit names; a resume
skips the parts that have a commit. Since a rerun of a part writes the same bytes under the same names, a
duplicate attempt, a retry or a kill at any point can neither lose nor double anything.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from skyreels.storage import Storage, sha256_file, sha256_of

_READERS = 16  # commit records are small; reading them is latency-bound on S3


class CommittedFile(BaseModel):
    """A file that a commit vouches for: its name below the storage root, checksum, bytes and sample keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    sha256: str
    bytes: int
    keys: tuple[str, ...] = ()


class Commit(BaseModel):
    """What one part produced, and facts about how (sources and their status, recipe, versions)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    part_id: str
    files: tuple[CommittedFile, ...]
    facts: dict[str, Any] = {}

    @property
    def keys(self) -> list[str]:
        return [key for file in self.files for key in file.keys]


class CommitError(ValueError):
    """A commit record that cannot be read, or that names a file which is not as it says."""


@dataclass(frozen=True)
class CommitLog:
    """The commit records of one storage, under `folder`."""

    storage: Storage
    folder: str = "_commits"

    def done(self) -> set[str]:
        """Ids of the committed parts; one listing, no record is read."""
        return {Path(name).stem for name in self.storage.names(self.folder) if name.endswith(".json")}

    def commit(self, record: Commit) -> None:
        self.storage.write(self._name(record.part_id), record.model_dump_json(indent=1).encode())

    def read(self, part_id: str) -> Commit:
        name = self._name(part_id)
        try:
            return Commit.model_validate_json(self.storage.read(name))
        except ValidationError as error:
            where = self.storage.location(name)
            raise CommitError(
                f"{where} is not a commit record ({error.error_count()} problems): delete it and "
                "run again; its part will be made anew"
            ) from error

    def all(self) -> Iterator[Commit]:
        """Every commit, in order of part id."""
        with ThreadPoolExecutor(_READERS) as pool:
            yield from pool.map(self.read, sorted(self.done()))

    def revoke(self, part_id: str) -> None:
        """Make a part not have happened; its files become orphans."""
        self.storage.delete(self._name(part_id))

    def orphans(self, prefix: str) -> list[str]:
        """Files below `prefix` that no commit names: left by killed attempts, safe to delete when nothing runs."""
        named = {file.name for commit in self.all() for file in commit.files}
        return [name for name in self.storage.names(prefix) if name not in named]

    def _name(self, part_id: str) -> str:
        return f"{self.folder}/{part_id}.json"


def describe(name: str, path: Path, keys: Iterable[str] = ()) -> CommittedFile:
    """The commit entry of a finished local file that is, or is about to be, published as `name`."""
    return CommittedFile(name=name, sha256=sha256_file(path), bytes=path.stat().st_size, keys=tuple(keys))


def verify(storage: Storage, commit: Commit) -> list[str]:
    """What does not hold of a commit's files, in words; empty when all checksums agree."""
    problems = []
    for file in commit.files:
        if not storage.exists(file.name):
            problems.append(f"{storage.location(file.name)} is missing")
        elif sha256_of(storage.location(file.name)) != file.sha256:
            problems.append(f"{storage.location(file.name)} differs from its committed checksum")
    return problems


def stable_json(value: Any) -> bytes:
    """JSON whose bytes depend on the value alone."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def digest(value: Mapping[str, Any]) -> str:
    """12 hex digits that name a set of settings."""
    return hashlib.blake2b(stable_json(value), digest_size=6).hexdigest()
