"""Copies of files that are far away, made once on a machine and shared by all of its processes.

skyreels-<purpose>-<user>/<name>    in the machine's temporary space (TMPDIR), for this user alone
"""

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from skyreels.commits import CommittedFile
from skyreels.leftovers import sweep, temporary_name
from skyreels.locations import local_path
from skyreels.storage import DamageError, Storage, StorageError, open_input, publish, sha256_file

_UNUSED_AFTER_S = 24 * 3600.0
_TRIES = 5


def at_hand(purpose: str, storage: Storage, file: CommittedFile) -> Path:
    """A local path of a stored file, to be mapped: itself where it is local, else a copy that is named by content.

    Raises FileNotFoundError, DamageError.
    """
    if storage.is_local:
        return local_path(storage.location(file.name))
    return node_copy(purpose, file.sha256, partial(_compared, storage.location(file.name), file.sha256))


def node_copy(purpose: str, name: str, fetch: Callable[[Path], None], most: int | None = None) -> Path:
    """The copy of that name. Whoever comes first has `fetch` write it; others wait, and find it whole or not at all.

    Copies stay, unless `most` are: then those that were not asked for in a day go, and of the others those longest
    ago. Raises what `fetch` raises; StorageError for a folder that is not safe.
    """
    target = _folder(purpose) / name
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # goes with its process, so that nobody waits for the dead
        if not target.is_file():
            sweep(target.parent, below=False)
            if most is not None:
                _make_room(target.parent, most - 1)
            unfinished = target.with_name(temporary_name())
            try:
                fetch(unfinished)
                publish(unfinished, target)
            finally:
                unfinished.unlink(missing_ok=True)
        with suppress(FileNotFoundError):  # another process made room, for another copy
            os.utime(target)
    return target


def linked_copy(link: Path, purpose: str, name: str, fetch: Callable[[Path], None], most: int) -> None:
    """The same as `link`, which stays whole when the copy goes."""
    for _ in range(_TRIES):
        copy = node_copy(purpose, name, fetch, most)
        with suppress(FileNotFoundError):  # it went at once: others make room as well
            return os.link(copy, link)
    raise StorageError(
        f"copies in {_folder(purpose)} go as soon as they are made: give TMPDIR a folder of this job's own"
    )


def forget_copy(purpose: str, name: str) -> None:
    """Delete this machine's copy."""
    for path in (_folder(purpose) / name, (_folder(purpose) / name).with_suffix(".lock")):
        path.unlink(missing_ok=True)


def _compared(location: str, sha256: str, path: Path) -> None:
    with open_input(location) as source, path.open("wb") as sink:
        shutil.copyfileobj(source, sink)
    if sha256_file(path) != sha256:
        raise DamageError(f"{location} differs from its checksum")


def _make_room(folder: Path, most: int) -> None:
    asked_for = {}
    for path in folder.iterdir():
        if path.suffix != ".lock" and not path.name.startswith("."):
            with suppress(FileNotFoundError):  # another process makes room as well
                asked_for[path] = path.stat().st_mtime
    latest = sorted(asked_for, key=asked_for.__getitem__, reverse=True)
    fresh = {path for path in latest[:most] if asked_for[path] > time.time() - _UNUSED_AFTER_S}
    for path in set(latest) - fresh:
        path.unlink(missing_ok=True)


def _folder(purpose: str) -> Path:
    """Of this user alone: what others could write is not read."""
    folder = Path(tempfile.gettempdir()) / f"skyreels-{purpose}-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise StorageError(f"{folder} may be written to by others: delete it, or set TMPDIR to another folder")
    return folder
