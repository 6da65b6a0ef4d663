"""Files of jobs on local disk or S3. Every name is made here: nothing that a caller calls a file reaches a path."""

import logging
import random
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TypeVar

from skyreels.serving.store.records import StoredFile
from skyreels.storage import Storage, open_input, sha256_file

logger = logging.getLogger(__name__)
Value = TypeVar("Value")

_NAME = re.compile(r"[a-z0-9_]{1,64}(\.[a-z0-9]{1,16})?")
_ID = re.compile(r"(video|file)_[0-9a-f]{32}")
_CHUNK = 1 << 20
_TRIES, _FIRST_WAIT_S, _LONGEST_WAIT_S = 12, 0.1, 1.0
_AT_ONCE = 4


def new_id() -> str:
    """Of a job: it cannot be guessed."""
    return f"video_{secrets.token_hex(16)}"


@dataclass(frozen=True)
class Artifacts:
    """A folder per job or upload. Writers of different fences write to different places, and only one is committed."""

    storage: Storage

    def keep(self, job: str, path: Path, *, stage: str = "", fence: int = 0) -> StoredFile:
        """Publish a local file under its own name, durably, and say what is to be committed."""
        if not _ID.fullmatch(job) or not _NAME.fullmatch(path.name) or not re.fullmatch(r"[a-z0-9_]{0,64}", stage):
            raise ValueError(f"{job}/{stage}/{path.name}: names of jobs, stages and files are plain lower-case words")
        place = f"{job}/{stage or 'request'}-{fence}/{path.name}"
        self._patiently(lambda: self.storage.upload(path, place))
        return StoredFile(stage, path.name, place, path.stat().st_size, sha256_file(path))

    def keep_all(self, job: str, paths: Sequence[Path], *, stage: str = "", fence: int = 0) -> tuple[StoredFile, ...]:
        """As `keep`, of several files beside each other: each waits for the disk or the network."""
        with ThreadPoolExecutor(min(_AT_ONCE, max(1, len(paths)))) as pool:
            return tuple(pool.map(lambda path: self.keep(job, path, stage=stage, fence=fence), paths))

    def fetch(self, file: StoredFile, folder: Path) -> Path:
        """The file as `folder/name`, checked. Raises DamagedFile."""
        path = folder / file.name
        with path.open("wb") as sink:
            for chunk in self.read(file, 0, file.bytes):
                sink.write(chunk)
        if path.stat().st_size != file.bytes or sha256_file(path) != file.sha256:
            raise DamagedFile(f"{file.place} is not what was stored (sha256 {file.sha256[:12]}…)")
        return path

    def read(self, file: StoredFile, start: int, length: int) -> Iterator[bytes]:
        """`length` bytes from `start` on; what a bucket breaks off is read on from there."""
        end, tries = start + length, 0
        while start < end:
            try:
                with open_input(self.storage.location(file.place)) as stream:
                    stream.seek(start)
                    while start < end and (chunk := stream.read(min(_CHUNK, end - start))):
                        start, tries = start + len(chunk), 0
                        yield chunk
                return
            except OSError as error:
                tries += 1
                self._pause(error, tries)

    def remove(self, job: str) -> None:
        """Every file of a job."""
        for name in self._patiently(lambda: self.storage.names(job)):
            self._patiently(lambda name=name: self.storage.delete(name))  # type: ignore[misc]
        self._remove_folders(job)

    def jobs(self) -> set[str]:
        """Ids of jobs and uploads that files are here of."""
        found = {name.split("/", 1)[0] for name in self.storage.names()}
        return {name for name in found if _ID.fullmatch(name)}

    def check(self) -> None:
        """Raises OSError where nothing can be written."""
        name = f"probe-{secrets.token_hex(8)}"
        self.storage.write(name, b"x")
        self.storage.delete(name)

    def _patiently(self, call: Callable[[], Value]) -> Value:
        """Again and again where a bucket fails; what a disk says is so."""
        for tries in count(1):
            try:
                return call()
            except OSError as error:
                self._pause(error, tries)
        raise AssertionError("not reached")

    def _pause(self, error: OSError, tries: int) -> None:
        """Raises the error where another try would not help, or there were enough."""
        if self.storage.is_local or isinstance(error, FileNotFoundError) or tries >= _TRIES:
            raise error
        logger.warning("try %d of %d: %s", tries, _TRIES, error)
        time.sleep(min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** (tries - 1)) * random.uniform(0.5, 1.0))

    def _remove_folders(self, job: str) -> None:
        root = Path(self.storage.location(job))
        if self.storage.is_local and root.is_dir():
            for folder in sorted(root.rglob("*"), reverse=True):
                folder.rmdir()
            root.rmdir()


class DamagedFile(Exception):
    """Stored bytes have changed."""
