"""Files that are to be mapped: a local one as it is, another as one copy that all processes of this machine share."""

import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path

from skyreels.commits import CommittedFile
from skyreels.leftovers import sweep, temporary_name
from skyreels.locations import local_path
from skyreels.storage import DamageError, Storage, StorageError, open_input, publish, sha256_file


def at_hand(storage: Storage, file: CommittedFile) -> Path:
    """A local path of a stored file. Whoever comes first makes the copy; others wait for it.

    Copies are compared with their checksum, named by content, and stay in the machine's temporary space (TMPDIR).
    Raises FileNotFoundError, DamageError.
    """
    if storage.is_local:
        return local_path(storage.location(file.name))
    target = _folder() / file.sha256
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # goes with its process, so that nobody waits for the dead
        if not target.is_file():
            sweep(target.parent, below=False)
            _copy(storage, file, target)
    return target


def _copy(storage: Storage, file: CommittedFile, target: Path) -> None:
    path = target.with_name(temporary_name())
    with open_input(storage.location(file.name)) as source, path.open("wb") as sink:
        shutil.copyfileobj(source, sink)
    if sha256_file(path) != file.sha256:
        path.unlink()
        raise DamageError(f"{storage.location(file.name)} differs from its checksum")
    publish(path, target)


def _folder() -> Path:
    """Of this user alone: what others could write is not mapped."""
    folder = Path(tempfile.gettempdir()) / f"skyreels-index-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise StorageError(f"{folder} may be written to by others: delete it, or set TMPDIR to another folder")
    return folder
