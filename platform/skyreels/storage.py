"""Files on local disk or S3 behind one small interface: atomic writes, checksums, listings.

A location is a path (`/data/out`) or a URI (`s3://bucket/prefix`). S3 credentials come from the usual AWS
environment; another endpoint (MinIO, a test server) from `AWS_ENDPOINT_URL`.
"""

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from pyarrow import fs

from skyreels.leftovers import scratch_folder, temporary_name

_CHUNK = 1 << 20
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class StorageError(OSError):
    """A file operation that failed: which location, why, and what to do."""


class DamageError(ValueError):
    """A stored file that is not what was written: which, what is wrong with it, and what to do."""


class MissingError(DamageError):
    """A stored file that is no longer there."""


@dataclass(frozen=True)
class FileEntry:
    """A listed file: its location as this module takes it, and its size in bytes."""

    location: str
    size: int


@dataclass(frozen=True)
class Storage:
    """A folder that files are read from and atomically written to, by names relative to it."""

    root: str

    @property
    def is_local(self) -> bool:
        return not is_remote(self.root)

    def location(self, name: str) -> str:
        return join(self.root, name)

    def exists(self, name: str) -> bool:
        return exists(self.location(name))

    def read(self, name: str) -> bytes:
        return read_bytes(self.location(name))

    def write(self, name: str, data: bytes) -> None:
        """Write `data` so that a reader sees the whole file or none of it."""
        with self.staged(name) as path:
            path.write_bytes(data)

    @contextmanager
    def staged(self, name: str) -> Iterator[Path]:
        """A local path to write; published under `name` in one step when the block ends without an error.

        Local: fsync, rename, fsync of the folder. S3: one upload, which is atomic. After an error, or a kill at
        any point, `name` is untouched; a temporary file left by a kill is hidden from `files`.
        """
        if self.is_local:
            target = Path(self.location(name))
            target.parent.mkdir(parents=True, exist_ok=True)
            path = target.with_name(temporary_name())
            try:
                with _told_where_no_room_is(self.location(name)):
                    yield path
                    publish(path, target)
            finally:
                path.unlink(missing_ok=True)
        else:
            with scratch_folder("upload") as folder:
                with _told_where_no_room_is(f"{folder}, on its way to {self.location(name)},"):
                    yield folder / "file"
                self.upload(folder / "file", name)

    def upload(self, path: Path, name: str) -> None:
        """Publish a finished local file under `name`; the whole of it or nothing becomes visible."""
        if self.is_local:
            with self.staged(name) as staged:
                shutil.copyfile(path, staged)
            return
        filesystem, target = resolve(self.location(name))
        with _errors_name(self.location(name)), path.open("rb") as source:
            sink = filesystem.open_output_stream(target)
            shutil.copyfileobj(source, sink, _CHUNK)
            sink.close()  # S3 shows the object only now; an error before this leaves nothing

    def files(self, prefix: str = "") -> list[FileEntry]:
        """Every file below `prefix` (a folder), sorted by location; temporary files are not listed."""
        return list_files(self.location(prefix) if prefix else self.root)

    def names(self, prefix: str = "") -> list[str]:
        """Like `files`, as names relative to this storage."""
        cut = len(self.root.rstrip("/")) + 1
        return [entry.location[cut:] for entry in self.files(prefix)]

    def delete(self, name: str) -> None:
        """Remove a file; a missing one is no error."""
        filesystem, path = resolve(self.location(name))
        with suppress(FileNotFoundError), _errors_name(self.location(name)):
            filesystem.delete_file(path)

    def sub(self, name: str) -> "Storage":
        return Storage(self.location(name))


def publish(path: Path, target: Path) -> None:
    """Make a finished local file durable and visible as `target` in one step."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(path, target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def is_remote(location: str) -> bool:
    return "://" in location and not location.startswith("file://")


def join(location: str, name: str) -> str:
    return f"{location.rstrip('/')}/{name.lstrip('/')}"


def normalise(location: str) -> str:
    """The one spelling of a location: an absolute path, or a URI as it is."""
    if is_remote(location):
        return location.rstrip("/")
    return str(Path(location.removeprefix("file://")).expanduser().absolute())


def resolve(location: str) -> tuple[fs.FileSystem, str]:
    """The filesystem that holds a location, and its path there."""
    if not is_remote(location):
        return fs.LocalFileSystem(), normalise(location)
    scheme, _, path = location.partition("://")
    if scheme != "s3":
        raise StorageError(f"{location}: cannot read '{scheme}://'; use a local path or s3://bucket/prefix")
    return _s3(), path


def exists(location: str) -> bool:
    filesystem, path = resolve(location)
    with _errors_name(location):
        return bool(filesystem.get_file_info(path).type != fs.FileType.NotFound)


def list_files(location: str) -> list[FileEntry]:
    """Every file at or below a location, sorted; hidden names (a leading dot) are left out. None where nothing is."""
    filesystem, path = resolve(location)
    scheme = "s3://" if is_remote(location) else ""
    with _errors_name(location):
        info = filesystem.get_file_info(path)
        if info.type == fs.FileType.NotFound:
            return []
        found = (
            [info] if info.type == fs.FileType.File else filesystem.get_file_info(fs.FileSelector(path, recursive=True))
        )
    files = [item for item in found if item.type == fs.FileType.File]
    cut = 0 if info.type == fs.FileType.File else len(path)
    shown = [item for item in files if not any(part.startswith(".") for part in item.path[cut:].split("/"))]
    return sorted((FileEntry(scheme + item.path, item.size) for item in shown), key=lambda entry: entry.location)


def open_input(location: str) -> IO[bytes]:
    """A seekable binary reader."""
    filesystem, path = resolve(location)
    with _errors_name(location):
        stream: Any = filesystem.open_input_file(path)
    return stream  # type: ignore[no-any-return]


def read_bytes(location: str) -> bytes:
    with open_input(location) as stream:
        return stream.read()


@contextmanager
def local_copy(location: str, scratch: Path) -> Iterator[Path]:
    """The file as a local path: itself when it is local, else a copy that is removed afterwards."""
    if not is_remote(location):
        yield Path(normalise(location))
        return
    scratch.mkdir(parents=True, exist_ok=True)
    path = scratch / f"copy-{uuid.uuid4().hex}"
    try:
        with open_input(location) as source, path.open("wb") as sink:
            shutil.copyfileobj(source, sink, _CHUNK)
        yield path
    finally:
        path.unlink(missing_ok=True)


def sha256_of(location: str) -> str:
    """Hex digest of a stored file, read in chunks."""
    digest = hashlib.sha256()
    with open_input(location) as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_file(path: Path) -> str:
    """Hex digest of a local file, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _s3() -> fs.FileSystem:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return _s3_at(endpoint, os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"))


@lru_cache(maxsize=4)
def _s3_at(endpoint: str | None, region: str | None) -> fs.FileSystem:
    options: dict[str, Any] = {"region": region} if region else {}
    if endpoint:
        scheme, _, host = endpoint.partition("://")
        options |= {"endpoint_override": host, "scheme": scheme, "region": region or "us-east-1"}
    return fs.S3FileSystem(**options, request_timeout=60, connect_timeout=10)


@contextmanager
def _errors_name(location: str) -> Iterator[None]:
    """Errors from below say which location they are about; a missing file stays FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{location} does not exist") from None
    except OSError as error:
        remedy = " (check AWS credentials, region and AWS_ENDPOINT_URL)" if is_remote(location) else ""
        raise StorageError(error.errno, f"{location}: {error}{remedy}") from error


@contextmanager
def _told_where_no_room_is(what: str) -> Iterator[None]:
    """A full disk, seen while a file is being written, says which file and what to do; it stays an OSError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM or isinstance(error, StorageError):
            raise
        reason = os.strerror(error.errno)
        raise StorageError(
            error.errno, f"{what} could not be written: {reason}; make room and run the same command again"
        ) from error
