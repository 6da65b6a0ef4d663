"""Caches below an output folder that none of its stages refers to, and their removal.

A stage refers to the caches that its run.json names, begun or finished, and to those whose fingerprint its
finished.json holds, for a run.json may be deleted.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from pipelines.training.curriculum.order import RECORD, CurriculumError, Finished
from pipelines.training.latents.index import CACHE, CacheRecord
from pipelines.training.stages.run_record import RUN_FILE, read_run
from skyreels.config import ConfigError
from skyreels.storage import is_remote, normalise

LATENTS = "latents"
_COMMITS = "_commits"
_BEGUN = ("checkpoints", "metrics.jsonl", RUN_FILE, RECORD)
"""What tells a stage's folder from others."""


@dataclass(frozen=True)
class FoundCache:
    """A cache below an output folder. `stages` refer to it; one that is not finished may be being made."""

    folder: Path
    size: int
    finished: bool
    stages: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.folder.name


def find_caches(output: str | Path) -> list[FoundCache]:
    """All caches below a local output folder, by name.

    Raises CurriculumError where a stage was begun and does not say what it reads: then no cache is known to be unused.
    """
    root = output_folder(output)
    folders = sorted(path for path in (root / LATENTS).glob("*") if path.is_dir())
    fingerprints = {folder.name: _fingerprint(folder) for folder in folders}
    readers: dict[str, list[str]] = {folder.name: [] for folder in folders}
    for stage in stage_folders(root):
        for name in _read_by(stage, fingerprints):
            readers.setdefault(name, []).append(stage.name)
    return [
        FoundCache(folder, _size(folder), fingerprints[folder.name] is not None, tuple(readers[folder.name]))
        for folder in folders
    ]


def remove(cache: FoundCache) -> None:
    """Delete a cache that no stage refers to now. Raises ValueError where one does."""
    known = {cache.name: _fingerprint(cache.folder)}
    stages = stage_folders(cache.folder.parents[1])
    readers = [stage.name for stage in stages if cache.name in _read_by(stage, known)]
    if readers:
        raise ValueError(f"{cache.folder} is read by {', '.join(readers)}: it stays")
    # In this order a kill leaves an unfinished cache, whose parts a job makes anew, and never one with holes.
    (cache.folder / CACHE).unlink(missing_ok=True)
    if (cache.folder / _COMMITS).is_dir():
        shutil.rmtree(cache.folder / _COMMITS)
    shutil.rmtree(cache.folder)


def output_folder(output: str | Path) -> Path:
    """Of a local output that is there. Raises ConfigError or FileNotFoundError."""
    if is_remote(str(output)):
        raise ConfigError(f"{output}: local folders alone can be looked through; run this where the folder is mounted")
    root = Path(normalise(str(output)))
    if not root.is_dir():
        raise FileNotFoundError(f"{root} does not exist: give the output folder of jobs/train.py or jobs/cache.py")
    return root


def stage_folders(root: Path) -> Iterator[Path]:
    """Folders of stages, of a fine-tuning run as well."""
    for folder in sorted(root.iterdir()):
        if folder.is_dir() and not folder.is_symlink() and any((folder / name).exists() for name in _BEGUN):
            yield folder


def _read_by(stage: Path, fingerprints: dict[str, str | None]) -> set[str]:
    """Names of the caches that a stage refers to; of `fingerprints` those that only a finished record tells."""
    named = read_run(stage).caches
    record = read_finished(stage)
    if named is None and record is None:
        raise CurriculumError(
            f"{stage} was begun and does not say which caches it reads, so none is known to be unused: let it finish, "
            "or delete that folder, and prune then"
        )
    data = {record.data, *record.datasets.values()} if record else set()
    return set((named or {}).values()) | {name for name, fingerprint in fingerprints.items() if fingerprint in data}


def read_finished(stage: Path) -> Finished | None:
    """A stage's record; None where it is not finished. Raises CurriculumError for a damaged one."""
    file = stage / RECORD
    try:
        return Finished.model_validate_json(file.read_bytes()) if file.is_file() else None
    except ValidationError as error:
        raise CurriculumError(
            f"{file} is no record of a stage ({error.error_count()} problems): delete it first"
        ) from error


def _fingerprint(cache: Path) -> str | None:
    """None: not finished, or of another version, which no stage can read."""
    try:
        return CacheRecord.model_validate_json((cache / CACHE).read_bytes()).fingerprint
    except (FileNotFoundError, ValidationError):
        return None


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
