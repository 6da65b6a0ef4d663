"""Files on local disk or S3 behind one small interface: atomic writes, checksums, listings.

A location is a path (`/data/out`) or a URI (`s3://bucket/prefix`). S3 credentials come from the usual AWS
environment; another endpoint (MinIO, a test server) from `AWS_ENDPOINT_URL`.
"""

import errno
import hashlib
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from pyarrow import fs

from skyreels.leftovers import scratch_folder, temporary_name
from skyreels.listing import LeaveOut, Skipped, Why, walk
from skyreels.locations import is_remote as is_remote
from skyreels.locations import join as join
from skyreels.locations import local_path, name_in, printable, spelled
from skyreels.locations import normalise as normalise

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
class Survey:
    """All that is at or below a location: the files, and what was passed by. Paths of both are locations."""

    files: list[FileEntry]
    skipped: list[Skipped]


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
            target = local_path(self.location(name))
            with _errors_name(str(target.parent)):
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

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        location = self.location(name)
        filesystem, path = resolve(location)
        with _errors_name(location):
            info = filesystem.get_file_info(str(local_path(path)) if self.is_local else path)
        return int(info.size) if info.type == fs.FileType.File else None

    def delete(self, name: str) -> None:
        """Remove a file; a missing one is no error."""
        location = self.location(name)
        with suppress(FileNotFoundError), _errors_name(location):
            if self.is_local:
                local_path(location).unlink()
            else:
                filesystem, path = resolve(location)
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


def resolve(location: str) -> tuple[fs.FileSystem, str]:
    """The filesystem that holds a location, and its path there."""
    if not is_remote(location):
        return fs.LocalFileSystem(), normalise(location)
    scheme, _, path = location.partition("://")
    if scheme != "s3":
        raise StorageError(f"{location}: cannot read '{scheme}://'; use a local path or s3://bucket/prefix")
    return _s3(), path


def require_writable(location: str, option: str = "--output") -> None:
    """Try to make a local folder and write to it, and leave nothing behind.

    Raises StorageError, naming the `option` that gave it, where that fails.
    """
    if is_remote(location):
        return  # the first upload says so, and no right to delete is needed for it
    path = local_path(normalise(location))
    name = printable(str(path))
    if spelled(str(path)) != str(path):
        raise StorageError(errno.EINVAL, f"{name} is not UTF-8: give {option} a name that is")
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / temporary_name()
        probe.touch()
        probe.unlink()
        for folder in new:
            with suppress(OSError):  # somebody else has written to it meanwhile: then it stays
                folder.rmdir()
    except (FileExistsError, NotADirectoryError):
        reason = f"{name} is a file, or lies below one: give a folder as {option}"
        raise StorageError(errno.ENOTDIR, reason) from None
    except OSError as error:
        reason = f"{name} cannot be written to ({error.strerror}): give another {option}, or yourself the right to it"
        raise StorageError(error.errno, reason) from None


def exists(location: str) -> bool:
    with _errors_name(location):
        if not is_remote(location):
            try:
                os.stat(local_path(location))
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True
        filesystem, path = resolve(location)
        return bool(filesystem.get_file_info(path).type != fs.FileType.NotFound)


def is_file(location: str) -> bool:
    """Whether a file, and not a folder or a pipe, is at a location."""
    with _errors_name(location):
        if not is_remote(location):
            return local_path(location).is_file()
        filesystem, path = resolve(location)
        return bool(filesystem.get_file_info(path).type == fs.FileType.File)


def list_files(location: str) -> list[FileEntry]:
    """Every file at or below a location, sorted; hidden names (a leading dot) are left out. None where nothing is.

    Raises StorageError where a folder cannot be read; `survey` goes on.
    """
    found = survey(location)
    for skipped in found.skipped:
        if skipped.why is Why.UNREADABLE:
            raise StorageError(errno.EACCES, f"{skipped.path} {skipped.why}: {skipped.detail}")
    return found.files


def survey(location: str, leave_out: LeaveOut | None = None) -> Survey:
    """Like `list_files`, with what was passed by and what cannot be read; `leave_out` is asked for local folders."""
    if not is_remote(location):
        return _survey_folder(str(local_path(normalise(location))), leave_out)
    filesystem, path = resolve(location)
    with _errors_name(location):
        info = filesystem.get_file_info(path)
        if info.type == fs.FileType.NotFound:
            return Survey([], [])
        if info.type == fs.FileType.File:
            return Survey([FileEntry(f"s3://{info.path}", info.size)], [])
        found = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    survey = Survey([], [])
    for item in sorted(found, key=lambda item: item.path):
        if item.type != fs.FileType.File:
            continue
        if any(part.startswith(".") for part in item.path[len(path) :].split("/")):
            survey.skipped.append(Skipped(f"s3://{item.path}", Why.HIDDEN))
        else:
            survey.files.append(FileEntry(f"s3://{item.path}", item.size))
    return survey


def list_level(location: str) -> tuple[list[FileEntry], list[str]]:
    """Files and folders of one remote folder, hidden ones too, without what is below those."""
    filesystem, path = resolve(location)
    with _errors_name(location):
        found = filesystem.get_file_info(fs.FileSelector(path, recursive=False))
    files = [FileEntry(f"s3://{item.path}", item.size) for item in found if item.type == fs.FileType.File]
    return files, [f"s3://{item.path}" for item in found if item.type == fs.FileType.Directory]


def _survey_folder(path: str, leave_out: LeaveOut | None) -> Survey:
    if not os.path.lexists(path):
        return Survey([], [])
    if os.path.isfile(path):
        return Survey([FileEntry(spelled(path), os.stat(path).st_size)], [])
    if not os.path.isdir(path):
        why = Why.SPECIAL if os.path.exists(path) else Why.BROKEN_LINK
        return Survey([], [Skipped(spelled(path), why)])
    listing = walk(path, leave_out) if leave_out else walk(path)
    files = sorted((FileEntry(spelled(path), size) for path, size in listing.files), key=lambda entry: entry.location)
    return Survey(files, [Skipped(spelled(s.path), s.why, s.detail) for s in listing.skipped])


def open_input(location: str) -> IO[bytes]:
    """A seekable binary reader."""
    local = None if is_remote(location) else regular_file(location)
    with _errors_name(location):
        if local is not None:
            return local.open("rb")
        filesystem, path = resolve(location)
        stream: Any = filesystem.open_input_file(path)
    return stream  # type: ignore[no-any-return]


def regular_file(location: str) -> Path:
    """The path of a local file that may be opened without waiting for somebody at the other end."""
    path = local_path(normalise(location))
    with _errors_name(location):
        if not stat.S_ISREG(path.stat().st_mode):
            kind = "a folder" if path.is_dir() else "a pipe, a socket or a device"
            raise StorageError(errno.EINVAL, f"it is {kind}, not a file")
    return path


def read_bytes(location: str, most: int | None = None) -> bytes:
    """The whole file. Raises StorageError where it has more than `most` bytes."""
    with open_input(location) as stream:
        data = stream.read() if most is None else stream.read(most + 1)
    if most is not None and len(data) > most:
        raise StorageError(f"{location} has more than {most} bytes, which is more than is read of such a file")
    return data


def times_in(folder: str) -> dict[str, int]:
    """Name -> when it was last written to (ns), of the files in a folder that can be seen; empty where none is."""
    if not is_remote(folder):
        try:
            with os.scandir(local_path(normalise(folder))) as entries:
                return {name_in(folder, e.name): time for e in entries if (time := _modified_ns(e)) is not None}
        except (FileNotFoundError, NotADirectoryError):
            return {}
    filesystem, path = resolve(folder)
    with _errors_name(folder):
        found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return {item.base_name: item.mtime_ns for item in found if item.type == fs.FileType.File}


def _modified_ns(entry: "os.DirEntry[str]") -> int | None:
    """None for what is no file, as is a link that leads in a circle or to where nobody may look."""
    try:
        return entry.stat().st_mtime_ns if entry.is_file() else None
    except OSError:
        return None


@contextmanager
def local_copy(location: str, scratch: Path) -> Iterator[Path]:
    """The file as a local path: itself when it is local, else a copy that is removed afterwards."""
    if not is_remote(location):
        yield regular_file(location)
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
        raise StorageError(error.errno, f"{location}: {error.strerror or error}{remedy}") from error


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
