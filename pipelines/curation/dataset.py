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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from pipelines.curation import annotators, layers, packing
from pipelines.curation.choice import elsewhere
from pipelines.curation.choice.selection import Decisions, select, with_buckets
from pipelines.curation.pool.read import Pool
from pipelines.curation.recipe import Recipe
from pipelines.curation.records import DAMAGE_REMEDY, Rejection
from pipelines.curation.report.write import write_report
from pipelines.curation.sources.user_captions import BadCaption, user_caption
from pipelines.curation.summary import Dataset, Work, rejects_table, summarise
from pipelines.dataset.caption_parts import FORMS
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
    making = _Making(root, store, recipe, cluster, decisions, quiet)
    captions = _caption(clips, {source["source_id"]: json.loads(source["meta"]) for source in sources}, making)
    chosen = {clip["key"]: clip for clip in making.left(clips)}
    plan = _pack_readable(chosen, captions, making)

    wanted = {pack.pack_id for pack in plan.packs}
    commits = [commit for commit in CommitLog(store).all() if commit.part_id in wanted]
    rejects = rejects_table(clips, decisions, sources)
    finished = {
        "rejects.parquet": encode(rejects),
        _RECIPE: yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False).encode(),
        MANIFEST: encode(packing.manifest_table(chosen, captions, plan.packs, commits)),
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


@dataclass(frozen=True)
class _Making:
    """A dataset in the making: where from and to, by which recipe, and what is decided of every clip so far."""

    root: Storage
    store: Storage
    recipe: Recipe
    cluster: LazyCluster
    decisions: Decisions
    quiet: bool

    def left(self, clips: Sequence[Row]) -> list[Row]:
        """The clips that are still chosen."""
        return [clip for clip in clips if self.decisions[clip["key"]] is None]


def _caption(clips: Sequence[Row], meta_of: Mapping[str, Mapping[str, Any]], making: _Making) -> dict[str, Row]:
    """Captions of the chosen clips, by key: what users wrote comes first, a captioner says the rest.

    A clip whose caption failed is decided out, and asked again by the next run.
    """
    written = _written(making.left(clips), meta_of, making)
    said = _said([clip for clip in making.left(clips) if not _whole(written.get(clip["key"]))], making)
    keys = [clip["key"] for clip in making.left(clips)]
    return {key: said.get(key, {}) | written.get(key, {}) for key in keys if key in said or key in written}


def _whole(row: Row | None) -> bool:
    return row is not None and all(form in row for form in FORMS)


def _written(clips: Sequence[Row], meta_of: Mapping[str, Mapping[str, Any]], making: _Making) -> dict[str, Row]:
    """What users wrote, by key; a clip whose words cannot be used is decided out."""
    found: dict[str, Row] = {}
    config = making.recipe.captions
    if config.user == "ignore":
        return found
    for clip in clips:
        try:
            row = user_caption(clip, meta_of, fill=config.missing_forms == "user")
        except BadCaption as error:
            remedy = "mend the caption and run the same command again, or set captions.user=ignore"
            why = Rejection(stage="caption", reason="bad_caption", remedy=remedy, detail=str(error))
            making.decisions[clip["key"]] = why
            continue
        if row is not None:
            found[clip["key"]] = row
    return found


def _said(clips: Sequence[Row], making: _Making) -> dict[str, Row]:
    """What the recipe's captioner says of these clips."""
    layer = annotators.caption_layer(making.recipe.captions, making.root)
    if layer is None or not clips:
        return {}
    missing = layers.unanswered(layer, clips, making.root)
    if missing:
        making.cluster.join()
        with Progress("caption", len(missing), "clips", quiet=making.quiet) as bar:
            for count in layers.fill(layer, missing, making.root):
                bar.update(count)
    answers = layers.read_layer(layer, clips, making.root)
    for clip in clips:
        error = answers.get(clip["key"], {"error": "no answer came back for it"})["error"]
        if error is not None:
            remedy = "run the same command again; only failed captions are asked for"
            why = Rejection(stage="caption", reason="no_caption", remedy=remedy, detail=error)
            making.decisions[clip["key"]] = why
    return {clip["key"]: answers[clip["key"]] for clip in making.left(clips)}


def _pack_readable(chosen: dict[str, Row], captions: Mapping[str, Row], making: _Making) -> packing.PackPlan:
    """Pack what was chosen; clips that cannot be read from the pool are decided out, and packed around."""
    while True:
        plan, damaged = _pack(chosen, captions, making)
        for key, detail in damaged.items():
            why = Rejection(stage="pool", reason="damaged", remedy=DAMAGE_REMEDY, detail=detail)
            making.decisions[key] = why
            del chosen[key]
        if not damaged:
            return plan
        logger.warning("%d clips are damaged in the pool and left out; %s", len(damaged), DAMAGE_REMEDY)


def _pack(
    chosen: Mapping[str, Row], captions: Mapping[str, Row], making: _Making
) -> tuple[packing.PackPlan, dict[str, str]]:
    """The plan, and of the clips that could not be read, why."""
    store, config = making.store, making.recipe.shards
    made_by = annotators.provenance(making.recipe)
    identity = digest({"made_by": made_by, "shards": config.model_dump(mode="json")})

    def described(key: str) -> Row:
        return packing.sample_json(chosen[key], captions.get(key), made_by)

    rows = {key: row | {"content": digest(described(key))} for key, row in chosen.items()}
    plan = packing.plan_packs(rows, identity, store, config)
    packs = plan.remaining(store)
    damaged: dict[str, str] = {}
    if packs:
        making.cluster.join()
        keys = [key for pack in packs for key in pack.keys]
        samples = {key: {"members": chosen[key]["members"], "json": described(key)} for key in keys}
        with Progress("pack", len(keys), "clips", quiet=making.quiet) as bar:
            for outcome in packing.write_packs(packs, samples, identity, making.root.sub("pool"), store, config):
                if isinstance(outcome, packing.PackDamaged):
                    damaged |= outcome.clips
                else:
                    bar.update(outcome)
    return plan, damaged
