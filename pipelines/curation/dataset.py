"""From the pool to a dataset: choose, caption what was chosen, pack it, say what is in and what is not.

<output>/datasets/<name>/shards/<bucket>/*.tar    what a trainer reads
<output>/datasets/<name>/manifest.parquet         one row per sample; of a large dataset `manifest/`, in parts
<output>/datasets/<name>/rejects.parquet          one row per thing that is not in, with reason and remedy; likewise
<output>/datasets/<name>/report.html              the same to look at
<output>/datasets/<name>/recipe.yaml              what made it
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import yaml

from pipelines.curation import packing
from pipelines.curation.choice import elsewhere
from pipelines.curation.choice.selection import select
from pipelines.curation.pool.read import Pool
from pipelines.curation.recipe import Recipe
from pipelines.curation.report.write import write_report
from pipelines.curation.slices.dataset import RECIPE, REJECTS, finish_slices, recipe_yaml
from pipelines.curation.slices.finish import Making, finish_slice, joined_rows
from pipelines.curation.summary import Dataset, Work
from pipelines.dataset.manifest import MANIFEST
from pipelines.dataset.parts_of_table import is_there, publish_file
from pipelines.dataset.tables import encode
from skyreels.cluster import LazyCluster
from skyreels.config import ConfigError, build
from skyreels.storage import Storage

_NEW_RECIPE = "make the dataset again with `jobs/curate.py refilter --recipe` and its recipe"


def finish_dataset(
    root: Storage,
    slices: Sequence[Pool],
    recipe: Recipe,
    taken_down: frozenset[str],
    cluster: LazyCluster,
    started: float,
    work: Work,
    *,
    quiet: bool,
) -> Dataset:
    """Everything after the pool and its layers."""
    if len(slices) > 1:
        return finish_slices(root, slices, recipe, taken_down, cluster, started, work)
    (pool,) = slices
    store = root.sub(f"datasets/{recipe.name}")
    clips = joined_rows(pool, recipe, root)
    decisions = select(clips, recipe, packing.kept_keys(store), taken_down, elsewhere.delivered(recipe, root))
    made = finish_slice(pool, clips, Making(root, store, recipe, cluster, decisions, quiet))
    finished = {
        REJECTS: encode(made.rejects),
        RECIPE: recipe_yaml(recipe),
        MANIFEST: encode(made.manifest),
    }
    summary = replace(made.summary, wall_s=time.monotonic() - started)
    if not _is_written(store, finished):
        page = write_report(root, pool, recipe, decisions, made.captions, summary, work)
        store.write("report.html", page.encode())
        for name, data in finished.items():
            (store.write if name == RECIPE else partial(publish_file, store))(name, data)
    packing.drop_stale(store, made.plan)
    return summary


def dataset_names(root: Storage) -> list[str]:
    """Folders below `datasets`, finished or not."""
    return sorted({name.split("/")[1] for name in root.names("datasets") if name.count("/") > 1})


def is_finished(root: Storage, name: str) -> bool:
    """Whether a dataset was ever finished; one that was not has shards and commits alone."""
    return root.exists(f"datasets/{name}/{RECIPE}")


def made_recipe(root: Storage, name: str) -> Recipe:
    """The recipe of a finished dataset, under the name of its folder. Raises ConfigError where it cannot be read."""
    file = f"datasets/{name}/{RECIPE}"
    try:
        values = yaml.safe_load(root.read(file))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{root.location(file)} is damaged ({error}); {_NEW_RECIPE}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{root.location(file)} is damaged (it holds no settings); {_NEW_RECIPE}")
    return build(Recipe, values, origin=root.location(file)).model_copy(update={"name": name})


def _is_written(store: Storage, files: dict[str, bytes]) -> bool:
    """Whether the dataset is the one that is already there: then it is left alone."""
    names = [*files, "report.html"]
    if any(is_there(store, name) and not store.exists(name) for name in (MANIFEST, REJECTS)):
        return False
    return all(store.exists(name) for name in names) and all(store.read(name) == data for name, data in files.items())
