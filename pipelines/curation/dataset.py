"""From the pool to a dataset: choose, caption what was chosen, pack it, say what is in and what is not.

<output>/datasets/<name>/shards/<bucket>/*.tar    what a trainer reads
<output>/datasets/<name>/manifest.parquet         one row per sample
<output>/datasets/<name>/rejects.parquet          one row per thing that is not in, with reason and remedy
<output>/datasets/<name>/report.html              the same to look at
<output>/datasets/<name>/recipe.yaml              what made it
"""

import json
import logging
import time
from collections.abc import Sequence

import yaml

from pipelines.curation import annotators, elsewhere, packing
from pipelines.curation.captioning import caption_clips
from pipelines.curation.manifest import manifest_table, rejects_table, sample_json
from pipelines.curation.pool import Pool
from pipelines.curation.recipe import Recipe
from pipelines.curation.records import DAMAGE_REMEDY, Rejection
from pipelines.curation.report.write import write_report
from pipelines.curation.selection import Decisions, select, with_buckets
from pipelines.curation.summary import Dataset, Work, summarise
from pipelines.dataset.manifest import MANIFEST
from pipelines.dataset.tables import Row, encode, members_of
from skyreels.cluster import LazyCluster
from skyreels.commits import CommitLog, digest
from skyreels.config import ConfigError, build
from skyreels.progress import Progress
from skyreels.storage import Storage

logger = logging.getLogger(__name__)

_RECIPE = "recipe.yaml"
_NEW_RECIPE = "make the dataset again with `jobs/curate.py refilter --recipe` and its recipe"


def finish_dataset(
    root: Storage,
    pool: Pool,
    recipe: Recipe,
    taken_down: frozenset[str],
    cluster: LazyCluster,
    started: float,
    work: Work,
    *,
    quiet: bool,
) -> Dataset:
    """Everything after the pool and its layers."""
    store = root.sub(f"datasets/{recipe.name}")
    sources = pool.sources.to_pylist()
    cut = pool.clips.to_pylist()
    clips = with_buckets(_joined(cut, sources, annotators.answers_before_selection(recipe, cut, root)), recipe)
    decisions = select(clips, recipe, packing.kept_keys(store), taken_down, elsewhere.delivered(recipe, root))
    meta_of = {source["source_id"]: json.loads(source["meta"]) for source in sources}
    passed = [clip for clip in clips if decisions[clip["key"]] is None]
    captions = caption_clips(passed, meta_of, recipe, root, cluster, decisions, quiet=quiet)
    chosen = {clip["key"]: clip for clip in clips if decisions[clip["key"]] is None}
    plan = _pack_readable(chosen, captions, recipe, root, store, cluster, decisions, quiet)

    wanted = {pack.pack_id for pack in plan.packs}
    commits = [commit for commit in CommitLog(store).all() if commit.part_id in wanted]
    rejects = rejects_table(clips, decisions, sources)
    finished = {
        "rejects.parquet": encode(rejects),
        _RECIPE: yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False).encode(),
        MANIFEST: encode(manifest_table(chosen, captions, plan.packs, commits)),
    }
    summary = summarise(store, sources, clips, chosen, rejects.to_pylist(), time.monotonic() - started)
    if not _is_written(store, finished):
        store.write("report.html", write_report(root, pool, recipe, decisions, captions, summary, work).encode())
        for name, data in finished.items():
            store.write(name, data)
    packing.drop_stale(plan, store)
    return summary


def dataset_names(root: Storage) -> list[str]:
    """Folders below `datasets`, finished or not."""
    return sorted({name.split("/")[1] for name in root.names("datasets") if name.count("/") > 1})


def is_finished(root: Storage, name: str) -> bool:
    """Whether a dataset was ever finished; one that was not has shards and commits alone."""
    return root.exists(f"datasets/{name}/{_RECIPE}")


def made_recipe(root: Storage, name: str) -> Recipe:
    """The recipe of a finished dataset, under the name of its folder. Raises ConfigError where it cannot be read."""
    file = f"datasets/{name}/{_RECIPE}"
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
    return all(store.exists(name) for name in names) and all(store.read(name) == data for name, data in files.items())


def _joined(clips: Sequence[Row], sources: Sequence[Row], answers: dict[str, Row]) -> list[Row]:
    """Clips with what selection needs of their source and of the layers."""
    by_id = {source["source_id"]: source for source in sources}
    rows = []
    for clip in clips:
        source = by_id[clip["source_id"]]
        size = sum(member.size for member in members_of(clip).values())
        extra = {name: source[name] for name in ("uri", "sha256", "meta")}
        extra["name"] = source.get("name") or source["uri"].rpartition("/")[2]  # pools of before have no names
        rows.append({**clip, **extra, "bytes": size, **_shape(clip), **answers.get(clip["key"], {})})
    return rows


def _shape(clip: Row) -> Row:
    """Length and shape as scores that rules may name; sound has no shape."""
    short, long = sorted((clip["width"], clip["height"]))
    seconds = round(clip["end_s"] - clip["start_s"], 6)
    return {"seconds": seconds, "short_side": short or None, "aspect_ratio": long / short if short else None}


def _pack_readable(
    chosen: dict[str, Row],
    captions: dict[str, Row],
    recipe: Recipe,
    root: Storage,
    store: Storage,
    cluster: LazyCluster,
    decisions: Decisions,
    quiet: bool,
) -> packing.PackPlan:
    """Pack what was chosen; clips that cannot be read from the pool are decided out, and packed around."""
    while True:
        plan, damaged = _pack(chosen, captions, recipe, root, store, cluster, quiet)
        for key, detail in damaged.items():
            decisions[key] = Rejection(stage="pool", reason="damaged", remedy=DAMAGE_REMEDY, detail=detail)
            del chosen[key]
        if not damaged:
            return plan
        logger.warning("%d clips are damaged in the pool and left out; %s", len(damaged), DAMAGE_REMEDY)


def _pack(
    chosen: dict[str, Row],
    captions: dict[str, Row],
    recipe: Recipe,
    root: Storage,
    store: Storage,
    cluster: LazyCluster,
    quiet: bool,
) -> tuple[packing.PackPlan, dict[str, str]]:
    """The plan, and of the clips that could not be read, why."""
    made_by = annotators.provenance(recipe)
    identity = digest({"made_by": made_by, "shards": recipe.shards.model_dump(mode="json")})

    def described(key: str) -> Row:
        return sample_json(chosen[key], captions.get(key), made_by)

    rows = {key: row | {"content": digest(described(key))} for key, row in chosen.items()}
    plan = packing.plan_packs(rows, identity, store, recipe.shards)
    packs = plan.remaining(store)
    damaged: dict[str, str] = {}
    if packs:
        cluster.join()
        keys = [key for pack in packs for key in pack.keys]
        samples = {key: {"members": chosen[key]["members"], "json": described(key)} for key in keys}
        with Progress("pack", len(keys), "clips", quiet=quiet) as bar:
            for outcome in packing.write_packs(packs, samples, identity, root.sub("pool"), store, recipe.shards):
                if isinstance(outcome, packing.PackDamaged):
                    damaged |= outcome.clips
                else:
                    bar.update(outcome)
    return plan, damaged
