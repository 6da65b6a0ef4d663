"""Temporary files and folders, named for the process that works on them, so that those of the dead can be told.

.tmp-<node>-<pid>-<random>        a file on its way into a storage
skyreels-<purpose>-<node>-<pid>-…  a folder of scratch space on this machine
"""

import glob
import hashlib
import os
import platform
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

_NAMED = re.compile(r"-(?P<node>[0-9a-f]{8})-(?P<pid>[0-9]+)-[^-]+$")
_STALE_AFTER_S = 24 * 3600.0  # of other machines, and of names that tell no process: age has to do


def temporary_name(stem: str = "tmp") -> str:
    """A hidden name that no other process uses: listings of a storage leave it out."""
    return f".{stem}-{_owner()}-{uuid.uuid4().hex}"


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """A folder in the machine's temporary space that goes with the block."""
    with tempfile.TemporaryDirectory(prefix=f"skyreels-{purpose}-{_owner()}-") as folder:
        yield Path(folder)


def sweep(location: str | Path, *stems: str, below: bool = True, older_than_s: float = _STALE_AFTER_S) -> list[Path]:
    """Delete what dead processes left of `temporary_name(stem)` in a local folder, and `below` it; what was deleted.

    Of this machine, everything whose process has ended; of others, what is older than `older_than_s`.
    """
    root = Path(location)
    patterns = [f"{'**/' if below else ''}.{glob.escape(stem)}-*" for stem in stems or ("tmp",)]
    left = [path for pattern in patterns for path in root.glob(pattern)] if root.is_dir() else []
    return [path for path in left if is_left_over(path, older_than_s) and _delete(path)]


def sweep_scratch() -> list[Path]:
    """Delete the scratch folders of processes of this machine that have ended; what was deleted."""
    left = Path(tempfile.gettempdir()).glob(f"skyreels-*-{_node()}-*")
    return [path for path in left if _NAMED.search(path.name) and is_left_over(path) and _delete(path)]


def is_left_over(path: Path, older_than_s: float = _STALE_AFTER_S) -> bool:
    """Whether nobody works on a temporary file or folder any more."""
    named = _NAMED.search(path.name)
    here = named is not None and named["node"] == _node()
    if named and here and not _runs(int(named["pid"])):
        return True
    with suppress(FileNotFoundError):
        age_s = time.time() - path.lstat().st_mtime
        return age_s >= (_STALE_AFTER_S if here else older_than_s)  # a number may be another process's by now
    return False


def _owner() -> str:
    return f"{_node()}-{os.getpid()}"


@lru_cache(maxsize=1)
def _node() -> str:
    """8 hex digits of this machine and of the processes seen on it: containers that share a name do not share pids."""
    try:
        seen = os.readlink("/proc/self/ns/pid")
    except OSError:  # no Linux: then one machine is one space of pids
        seen = ""
    return hashlib.blake2b(f"{platform.node()} {seen}".encode(), digest_size=4).hexdigest()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _delete(path: Path) -> bool:
    """Whether it is gone by this call; another process may have been quicker."""
    try:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    except FileNotFoundError:
        return False
    return True
