"""Files of jobs on local disk or S3. Every name is made here: nothing that a caller calls a file reaches a path."""

import re
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from skyreels.serving.store.records import StoredFile
from skyreels.storage import Storage, open_input, sha256_file

_NAME = re.compile(r"[a-z0-9_]{1,64}(\.[a-z0-9]{1,16})?")
_ID = re.compile(r"(video|file)_[0-9a-f]{32}")
_CHUNK = 1 << 20
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
        self.storage.upload(path, place)
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
        """`length` bytes from `start` on."""
        with open_input(self.storage.location(file.place)) as stream:
            stream.seek(start)
            while length > 0 and (chunk := stream.read(min(_CHUNK, length))):
                length -= len(chunk)
                yield chunk

    def remove(self, job: str) -> None:
        """Every file of a job."""
        for name in self.storage.names(job):
            self.storage.delete(name)
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

    def _remove_folders(self, job: str) -> None:
        root = Path(self.storage.location(job))
        if self.storage.is_local and root.is_dir():
            for folder in sorted(root.rglob("*"), reverse=True):
                folder.rmdir()
            root.rmdir()


class DamagedFile(Exception):
    """Stored bytes have changed."""
