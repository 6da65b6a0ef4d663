"""Other datasets whose clips must not come back in this one: `dedup.against` of a recipe."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.curation.recipe import Recipe
from pipelines.dataset.manifest import MANIFEST
from pipelines.dataset.parts_of_table import column_between, is_there, table_of, tables_of
from pipelines.dataset.tables import Row
from skyreels.config import ConfigError
from skyreels.storage import Storage, normalise


def delivered(recipe: Recipe, root: Storage) -> list[Row]:
    """Manifest rows of the datasets that `recipe.dedup.against` names, each clip once; `root` is this run's output."""
    manifests = [_manifest(store).to_pylist() for store in stores(recipe, root)]
    return list({row["key"]: row for rows in manifests for row in rows}.values())


def stores(recipe: Recipe, root: Storage) -> list[Storage]:
    """Where these datasets lie; raises before any work is done if one is not there, or is this run's own."""
    own = root.sub(f"datasets/{recipe.name}").root
    found = [_resolve(location, recipe) for location in recipe.dedup.against]
    if own in [store.root for store in found]:
        raise ConfigError(
            f"dedup.against names the dataset being made, {own}: name others, or give this one a new name"
        )
    return found


def _manifest(store: Storage) -> pa.Table:
    return table_of(store, MANIFEST, "run `jobs/curate.py verify` on the output it is in")


def _resolve(location: str, recipe: Recipe) -> Storage:
    given = Storage(normalise(location))
    for store in (given.sub(f"datasets/{recipe.name}"), given):
        if is_there(store, MANIFEST):
            return store
    raise FileNotFoundError(
        f"dedup.against: {given.root} is no finished dataset and has no datasets/{recipe.name}: give an output of "
        "jobs/curate.py that has a dataset of this name, or the folder of a dataset (the one with manifest.parquet)"
    )


def rows_of(stores: Sequence[Storage], place: int, size: int) -> Iterator[pa.Table]:
    """The rows of one of these datasets in tables of at most `size`, without clips that a later one has as well."""
    for table in tables_of(stores[place], MANIFEST):
        first, last = (pc.min_max(table["key"])[bound].as_py() or "" for bound in ("min", "max"))
        later = [key for store in stores[place + 1 :] for key in column_between(store, MANIFEST, "key", first, last)]
        left = table.filter(pc.invert(pc.is_in(table["key"], pa.array(later, pa.string()))))
        for start in range(0, len(left), size):
            yield left.slice(start, size)
