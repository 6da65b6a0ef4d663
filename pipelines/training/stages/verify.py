"""Checking everything below a training output, every byte against what was written down of it.

What can be made again is marked as not done, so that the next run makes it: parts of latent caches; checkpoints that
another, sound one stands in for. Of the rest it is said what would help.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from model.checksums import CHECKSUMS, differences
from model.folder import INDEX as MODEL_INDEX
from model.folder import ModelIndex
from pipelines.training.curriculum.order import CurriculumError
from pipelines.training.latents.index import CACHE, LatentError, index_problems, open_latents
from pipelines.training.stages.prune import LATENTS, output_folder, read_finished, stage_folders
from pipelines.training.stages.run_record import read_run
from skyreels.commits import CommitLog, verify
from skyreels.config import ConfigError
from skyreels.storage import DamageError, Storage
from skyreels.training.checkpoints import Checkpoints


@dataclass(frozen=True)
class Damage:
    """Something that is not as it was written, and what to do. `mend` marks it as not done; None: a person must act."""

    problem: str
    remedy: str
    mend: Callable[[], None] | None = None


def find_damage(output: str | Path) -> list[Damage]:
    """Everything below a local output folder that is missing or differs. Reads it all, and writes nothing."""
    root = output_folder(output)
    caches = sorted(path for path in (root / LATENTS).glob("*") if path.is_dir())
    stages = list(stage_folders(root))
    return [
        *(damage for folder in caches for damage in _in_cache(folder)),
        *(damage for folder in stages for damage in _in_checkpoints(folder)),
        *(damage for folder in stages for damage in _in_records(folder)),
        *_in_weights(root),
    ]


def _in_cache(folder: Path) -> Iterator[Damage]:
    storage = Storage(str(folder))
    log = CommitLog(storage)
    remedy = "the next run that needs it makes it again"
    for part in sorted(log.done()):
        problems = _problems(storage, log, part)
        if problems:
            yield Damage("; ".join(problems), remedy, partial(log.revoke, part))
    if storage.exists(CACHE):
        try:
            problems = index_problems(open_latents(str(folder)))
        except LatentError as error:
            problems = [str(error)]
        if problems:
            yield Damage("; ".join(problems), remedy, partial(storage.delete, CACHE))


def _problems(storage: Storage, log: CommitLog, part: str) -> list[str]:
    try:
        return verify(storage, log.read(part))
    except DamageError as error:
        return [str(error)]


def _in_checkpoints(folder: Path) -> Iterator[Damage]:
    """A damaged one is given up only where another is sound."""
    checkpoints = Checkpoints.of(str(folder))
    damaged = {step: problems for step in checkpoints.steps() if (problems := checkpoints.damage(step))}
    sound = [step for step in checkpoints.steps() if step not in damaged]
    for step, problems in damaged.items():
        if sound:
            remedy = f"that of step {sound[-1]} counts; what is not trained yet goes on from there"
            yield Damage("; ".join(problems), remedy, partial(checkpoints.discard, step))
        else:
            yield Damage("; ".join(problems), "no other checkpoint of it is sound: restore it from a copy")


def _in_records(folder: Path) -> Iterator[Damage]:
    for look in (read_run, read_finished):
        try:
            look(folder)
        except (ConfigError, CurriculumError) as error:
            yield Damage(str(error), "do as it says")


def _in_weights(root: Path) -> Iterator[Damage]:
    """Components, exports and adapters: every folder that has checksums, and every index."""
    remedy = (
        "restore it from a copy; or, of a stage's export, delete the stage's finished.json and run the stage again: it "
        "is exported from its last checkpoint"
    )
    for record in sorted(root.rglob(CHECKSUMS)):
        for problem in differences(record.parent):
            yield Damage(f"{record.parent}: {problem}", remedy)
    for record in sorted(root.rglob(MODEL_INDEX)):
        try:
            ModelIndex.read(record.parent)
        except ValueError as error:
            yield Damage(str(error), remedy)
