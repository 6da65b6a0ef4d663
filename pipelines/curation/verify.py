"""Checking a whole output, every byte against what was written down of it, and making anew what can be.

Pool parts are made from their sources, answers of layers are asked for again, packs are written from the pool, and
manifests and reports from all of these.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from pipelines.curation.dataset import dataset_names, is_finished, made_recipe
from pipelines.curation.pipeline import fill_parts, remake_all, sweep
from pipelines.curation.pool.plan import Part, can_be_made, read_plan
from pipelines.curation.recipe import Recipe
from pipelines.curation.taken_down import read_taken_down
from pipelines.dataset.manifest import MANIFEST
from pipelines.dataset.parts_of_table import files_of, is_there
from pipelines.dataset.tables import decode
from skyreels.cluster import LazyCluster
from skyreels.commits import CommitLog, verify
from skyreels.config import ConfigError
from skyreels.storage import DamageError, MissingError, Storage, normalise

_POOL = "pool"
_TABLES = (MANIFEST, "rejects.parquet")
_OTHERS = ("report.html",)


@dataclass(frozen=True)
class Damage:
    """Something that is not as it was written. `store` is a folder of the output; `part` empty: no part of it."""

    store: str
    part: str
    problem: str


def find_damage(output: str) -> list[Damage]:
    """Everything in an output that is missing or differs. Reads it all, and writes nothing.

    Raises FileNotFoundError where there is no output.
    """
    root = Storage(normalise(output))
    if not root.names(_POOL):
        raise FileNotFoundError(f"{root.root} holds no pool: give the --output of a run of jobs/curate.py")
    stores = [_POOL, *_layers(root), *(f"datasets/{name}" for name in dataset_names(root))]
    found = [damage for store in stores for damage in _in_commits(root, store)]
    for folder in (f"{_POOL}/_plan", f"{_POOL}/_seen"):
        found += [damage for name in root.names(folder) for damage in _in_table(root, _POOL, name)]
    for name in dataset_names(root):
        if is_finished(root, name):
            found += _in_dataset(root, name)
    found += _told("", lambda: read_taken_down(root))
    return found


def repair(output: str, found: list[Damage], recipe: Recipe, *, quiet: bool = False) -> list[str]:
    """Make anew what can be; in words, what could not."""
    root = Storage(normalise(output))
    sweep(root)
    left = _repair_pool(root, {damage.part: damage for damage in found if damage.store == _POOL}, recipe, quiet=quiet)
    for damage in found:
        if damage.store.startswith(("layers/", "datasets/")) and damage.part:
            CommitLog(root.sub(damage.store)).revoke(damage.part)
    finished = [name for name in dataset_names(root) if is_finished(root, name)]
    _, failed = remake_all(root, finished if found else [])
    left += [f"{root.location(f'datasets/{name}')} could not be made again: {why}" for name, why in failed.items()]
    return left + [damage.problem for damage in found if not damage.store]


def _repair_pool(root: Storage, damaged: dict[str, Damage], recipe: Recipe, *, quiet: bool) -> list[str]:
    """Make the pool's damaged parts again from their sources; in words, those that cannot be."""
    left: list[str] = []
    for used in _recipes(root, recipe):
        planned = _readable_plan(root, used)
        mine = [part for part in planned if part.part_id in damaged]
        left += [_not_there(part, damaged[part.part_id]) for part in mine if not can_be_made(part)]
        parts = [part for part in mine if can_be_made(part)]
        if parts:
            with LazyCluster() as cluster:
                fill_parts(parts, root, used, cluster, quiet=quiet)
        for part in mine:
            damaged.pop(part.part_id)
    return left + [f"{damage.problem}: no recipe that is known planned it" for damage in damaged.values()]


def _readable_plan(root: Storage, recipe: Recipe) -> list[Part]:
    try:
        return read_plan(root.sub(_POOL), recipe.extract).current
    except DamageError:  # it is among the findings, and nothing can be made by it
        return []


def _not_there(part: Part, damage: Damage) -> str:
    return (
        f"{damage.problem}, and not all of its {len(part.sources)} sources are where they were (such as "
        f"{part.sources[0].uri}): put them back, or restore the file, and run this again; clips that cannot be read "
        "are left out of datasets until then"
    )


def _recipes(root: Storage, recipe: Recipe) -> list[Recipe]:
    """One recipe per extraction that is known: of the datasets, and the one given."""
    found = {recipe.extract.identity: recipe}
    for name in dataset_names(root):
        if is_finished(root, name):
            try:
                made = made_recipe(root, name)
            except ConfigError:  # told by `find_damage`
                continue
            found.setdefault(made.extract.identity, made)
    return list(found.values())


def _layers(root: Storage) -> list[str]:
    return sorted({"/".join(name.split("/")[:2]) for name in root.names("layers")})


def _in_commits(root: Storage, store: str) -> Iterator[Damage]:
    storage = root.sub(store)
    log = CommitLog(storage)
    for part in sorted(log.done()):
        try:
            problems = verify(storage, log.read(part))
        except DamageError as error:
            problems = [str(error)]
        if problems:
            yield Damage(store, part, "; ".join(problems))


def _in_table(root: Storage, store: str, name: str) -> list[Damage]:
    return _told(store, lambda: decode(root.read(name), root.location(name)))


def _in_dataset(root: Storage, name: str) -> list[Damage]:
    store = f"datasets/{name}"
    found = [Damage(store, "", f"{root.location(f'{store}/{file}')} is missing")
             for file in (*_TABLES, *_OTHERS) if not is_there(root, f"{store}/{file}")]  # fmt: skip
    for table in _TABLES:
        if is_there(root, f"{store}/{table}"):
            found += _told(store, partial(_read_through, root, f"{store}/{table}"))
    return found + _told(store, lambda: made_recipe(root, name))


def _read_through(root: Storage, name: str) -> None:
    for file in files_of(root, name):
        if not root.exists(file):
            raise MissingError(f"{root.location(file)} is missing")
        decode(root.read(file), root.location(file))


def _told(store: str, look: Callable[[], object]) -> list[Damage]:
    try:
        look()
    except (DamageError, ConfigError) as error:
        return [Damage(store, "", str(error))]
    return []
