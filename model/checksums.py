"""`checksums.json` beside weights: what they were when they were saved, compared when they are loaded or handed on."""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

CHECKSUMS = "checksums.json"
_THREADS = 4  # hashing leaves the interpreter alone


class CheckpointError(ValueError):
    """What is wrong with a checkpoint, where, and what to do."""


def read_json(path: Path) -> dict[str, Any]:
    """A record beside weights. Raises CheckpointError where it holds no settings."""
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}): copy it again") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is damaged (it holds no settings): copy it again")
    return values


def seal(directory: str | Path) -> None:
    """Write down size and SHA-256 of every safetensors file in a folder."""
    directory = Path(directory)
    files = sorted(directory.rglob("*.safetensors"))
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = list(pool.map(_sha256, files))
    sealed = {
        path.relative_to(directory).as_posix(): {"bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(files, digests, strict=True)
    }
    partial = directory / f"{CHECKSUMS}.partial"
    partial.write_text(json.dumps(sealed, indent=1) + "\n")
    os.replace(partial, directory / CHECKSUMS)


def check(directory: str | Path, *, whole: bool = True) -> None:
    """Raise CheckpointError where weights are not those that were saved; `whole` False compares sizes alone.

    A folder without checksums, such as one from a hub, has nothing to be compared with.
    """
    problems = list(differences(directory, whole=whole))
    if problems:
        raise CheckpointError(
            f"{directory} is damaged: {'; '.join(problems)}. Copy it or export it again; if it was changed on purpose, "
            f"delete {Path(directory) / CHECKSUMS}"
        )


def differences(directory: str | Path, *, whole: bool = True) -> Iterator[str]:
    """What `check` raises for, file by file."""
    directory = Path(directory)
    if not (directory / CHECKSUMS).is_file():
        return
    try:
        values = read_json(directory / CHECKSUMS)
        sealed = {name: (int(facts["bytes"]), str(facts["sha256"])) for name, facts in values.items()}
    except (ValueError, TypeError, KeyError) as error:
        yield f"{CHECKSUMS} cannot be read ({error})"
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda name: _difference(directory / name, sealed[name], whole), sealed)
        yield from (difference for difference in found if difference)


def _difference(path: Path, sealed: tuple[int, str], whole: bool) -> str | None:
    size, sha256 = sealed
    if not path.is_file():
        return f"{path.name} is missing"
    if path.stat().st_size != size:
        return f"{path.name} has {path.stat().st_size} bytes, not {size}"
    if whole and _sha256(path) != sha256:
        return f"{path.name} differs from its checksum"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
