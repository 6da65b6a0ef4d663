"""The commit protocol: a part's files become true when its commit record appears, and not before.

A part is a deterministic unit of work. Whoever runs it writes its files atomically (`Storage.staged`) and then,
last, one commit record that names them with their checksums. Readers trust only what a commit names; a resume
skips the parts that have a commit. Since a rerun of a part writes the same bytes under the same names, a
duplicate attempt, a retry or a kill at any point can neither lose nor double anything.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from skyreels.storage import DamageError, MissingError, Storage, sha256_file, sha256_of

logger = logging.getLogger(__name__)

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


class CommitError(DamageError):
    """A commit record that cannot be read, or that names a file which is not as it says."""


@dataclass(frozen=True)
class CommitLog:
    """The commit records of one storage, under `folder`."""

    storage: Storage
    folder: str = "_commits"

    def done(self) -> set[str]:
        """Ids of the committed parts; one listing, no record is read."""
        return {Path(name).stem for name in self.storage.names(self.folder) if name.endswith(".json")}

    def intact(self) -> dict[str, Commit]:
        """The commits whose files are all there with their sizes, by part: what needs not be done again.

        One listing and the records; no file is read (`verify` does).
        """
        sizes = self._sizes()
        return {commit.part_id: commit for commit in self.all() if not _misfits(commit, sizes)}

    def intact_of(self, part_ids: Iterable[str]) -> Iterator[Commit]:
        """The same of these parts alone, looking at nothing else: for a few of many."""
        with ThreadPoolExecutor(_READERS) as pool:
            for commit in pool.map(self._intact, part_ids):
                if commit is not None:
                    yield commit

    def commit(self, record: Commit) -> None:
        self.storage.write(self.name_of(record.part_id), record.model_dump_json(indent=1).encode())

    def read(self, part_id: str) -> Commit:
        name = self.name_of(part_id)
        where = self.storage.location(name)
        try:
            commit = Commit.model_validate_json(self.storage.read(name))
        except ValidationError as error:
            raise CommitError(
                f"{where} is not a commit record ({error.error_count()} problems): run again; its part counts as not "
                "done and will be made anew"
            ) from error
        if commit.part_id != part_id:
            raise CommitError(f"{where} is the commit record of {commit.part_id} under another name: delete it")
        return commit

    def all(self) -> Iterator[Commit]:
        """Every commit that can be read, in order of part id; of the others a warning: their parts are not done."""
        part_ids = sorted(self.done())
        with ThreadPoolExecutor(_READERS) as pool:
            for start in range(0, len(part_ids), _READERS):  # so that no more records than these wait to be taken
                for commit in pool.map(self._readable, part_ids[start : start + _READERS]):
                    if commit is not None:
                        yield commit

    def read_file(self, file: CommittedFile) -> bytes:
        """A committed file, whole. Raises DamageError where its bytes are not those committed."""
        try:
            data = self.storage.read(file.name)
        except FileNotFoundError:
            raise MissingError(f"{self.storage.location(file.name)} is missing") from None
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise DamageError(f"{self.storage.location(file.name)} differs from its committed checksum")
        return data

    def revoke(self, part_id: str) -> None:
        """Make a part not have happened; its files become orphans."""
        self.storage.delete(self.name_of(part_id))

    def orphans(self, prefix: str) -> list[str]:
        """Files below `prefix` that no commit names: left by killed attempts, safe to delete when nothing runs."""
        named = {file.name for commit in self.all() for file in commit.files}
        return [name for name in self.storage.names(prefix) if name not in named]

    def _readable(self, part_id: str) -> Commit | None:
        try:
            return self.read(part_id)
        except CommitError as error:
            logger.warning("%s", error)
            return None

    def _intact(self, part_id: str) -> Commit | None:
        if not self.storage.exists(self.name_of(part_id)):
            return None
        commit = self._readable(part_id)
        if commit is None or any(self.storage.size(file.name) != file.bytes for file in commit.files):
            return None
        return commit

    def _sizes(self) -> dict[str, int]:
        cut = len(self.storage.root.rstrip("/")) + 1
        return {entry.location[cut:]: entry.size for entry in self.storage.files()}

    def name_of(self, part_id: str) -> str:
        """Where the record of a part lies."""
        return f"{self.folder}/{part_id}.json"


def describe(name: str, path: Path, keys: Iterable[str] = ()) -> CommittedFile:
    """The commit entry of a finished local file that is, or is about to be, published as `name`."""
    return CommittedFile(name=name, sha256=sha256_file(path), bytes=path.stat().st_size, keys=tuple(keys))


def verify(storage: Storage, commit: Commit) -> list[str]:
    """What does not hold of a commit's files, in words; empty when all checksums agree."""
    with ThreadPoolExecutor(_READERS) as pool:
        problems = pool.map(lambda file: _problem(storage, file), commit.files)
        return [problem for problem in problems if problem]


def _problem(storage: Storage, file: CommittedFile) -> str | None:
    where = storage.location(file.name)
    if not storage.exists(file.name):
        return f"{where} is missing"
    return None if sha256_of(where) == file.sha256 else f"{where} differs from its committed checksum"


def _misfits(commit: Commit, sizes: Mapping[str, int]) -> list[str]:
    """Names of a commit's files that are not there, or not of their size."""
    return [file.name for file in commit.files if sizes.get(file.name) != file.bytes]


def stable_json(value: Any) -> bytes:
    """JSON whose bytes depend on the value alone."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def digest(value: Mapping[str, Any]) -> str:
    """12 hex digits that name a set of settings."""
    return hashlib.blake2b(stable_json(value), digest_size=6).hexdigest()
