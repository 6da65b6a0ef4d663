"""One slice of a dataset: from its rows and what was decided of them to captions, packs, and the tables that tell.

A small dataset is one slice, a large one many, each a task by itself: packs hold clips of one slice.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.curation import annotators, layers, packing
from pipelines.curation.choice.selection import Decisions, with_buckets
from pipelines.curation.pool.read import Pool
from pipelines.curation.recipe import Recipe
from pipelines.curation.records import DAMAGE_REMEDY, Rejection
from pipelines.curation.sources.user_captions import BadCaption, user_caption
from pipelines.curation.summary import Dataset, rejects_table, summarise
from pipelines.dataset.caption_parts import FORMS
from pipelines.dataset.tables import Row, members_of
from skyreels import parts
from skyreels.cluster import LazyCluster
from skyreels.commits import CommitLog, digest
from skyreels.progress import Progress
from skyreels.storage import Storage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Making:
    """A dataset in the making: where from and to, by which recipe, and what is decided of every clip so far.

    `cluster` None: this is a task on one, and does its packs by itself.
    """

    root: Storage
    store: Storage
    recipe: Recipe
    cluster: LazyCluster | None
    decisions: Decisions
    quiet: bool
    answers: layers.Answers | None = None  # of the layer of captions; None: read from it

    def said(self, layer: layers.Layer, clips: Sequence[Row]) -> dict[str, Row]:
        """What the layer says of these clips."""
        return self.answers(layer, clips) if self.answers else layers.read_layer(layer, clips, self.root)

    def left(self, clips: Sequence[Row]) -> list[Row]:
        """The clips that are still chosen."""
        return [clip for clip in clips if self.decisions[clip["key"]] is None]


@dataclass(frozen=True)
class Finished:
    """What a slice came to."""

    plan: packing.PackPlan
    manifest: pa.Table
    rejects: pa.Table
    captions: dict[str, Row]
    summary: Dataset


def finish_slice(pool: Pool, clips: Sequence[Row], making: Making, wall_s: float = 0.0) -> Finished:
    """Caption and pack what was chosen of `clips`, the joined rows of a pool; decides out what cannot be."""
    sources = pool.sources.to_pylist()
    meta_of = {source["source_id"]: json.loads(source["meta"]) for source in sources}
    captions = _caption(clips, meta_of, making)
    chosen = {clip["key"]: clip for clip in making.left(clips)}
    plan = _pack_readable(chosen, captions, making)
    commits = CommitLog(making.store).intact_of(pack.pack_id for pack in plan.packs)
    rejects = rejects_table(clips, making.decisions, sources)
    manifest = packing.manifest_table(chosen, captions, plan.packs, commits)
    summary = summarise(making.store, sources, clips, chosen, rejects.to_pylist(), wall_s)
    return Finished(plan, manifest, rejects, captions, summary)


def joined_rows(pool: Pool, recipe: Recipe, root: Storage, read: layers.Answers | None = None) -> list[Row]:
    """The clips of a pool with what selection needs of their source and of the layers, which `read` reads."""
    cut = pool.clips.to_pylist()
    answers = annotators.answers_before_selection(recipe, cut, root, read)
    return with_buckets(_joined(cut, pool.sources.to_pylist(), answers), recipe)


def to_be_said(pool: Pool, clips: Sequence[Row], making: Making) -> list[Row]:
    """The chosen clips that the recipe's captioner has to be asked about."""
    layer = annotators.caption_layer(making.recipe.captions, making.root)
    if layer is None:
        return []
    meta_of = {source["source_id"]: json.loads(source["meta"]) for source in pool.sources.to_pylist()}
    written = _written(making.left(clips), meta_of, making)
    asked = [clip for clip in making.left(clips) if not _whole(written.get(clip["key"]))]
    said = making.said(layer, asked)
    return [clip for clip in asked if said.get(clip["key"], {"error": ""})["error"] is not None]


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


def _caption(clips: Sequence[Row], meta_of: Mapping[str, Mapping[str, Any]], making: Making) -> dict[str, Row]:
    """Captions of the chosen clips, by key: what users wrote comes first, a captioner says the rest.

    A clip whose caption failed is decided out, and asked again by the next run.
    """
    written = _written(making.left(clips), meta_of, making)
    said = _said([clip for clip in making.left(clips) if not _whole(written.get(clip["key"]))], making)
    keys = [clip["key"] for clip in making.left(clips)]
    return {key: said.get(key, {}) | written.get(key, {}) for key in keys if key in said or key in written}


def _whole(row: Row | None) -> bool:
    return row is not None and all(form in row for form in FORMS)


def _written(clips: Sequence[Row], meta_of: Mapping[str, Mapping[str, Any]], making: Making) -> dict[str, Row]:
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


def _said(clips: Sequence[Row], making: Making) -> dict[str, Row]:
    """What the recipe's captioner says of these clips."""
    layer = annotators.caption_layer(making.recipe.captions, making.root)
    if layer is None or not clips:
        return {}
    missing = layers.unanswered(layer, clips, making.root) if making.answers is None else []
    if missing and making.cluster is not None:
        making.cluster.join()
        with Progress("caption", len(missing), "clips", quiet=making.quiet) as bar:
            for count in layers.fill(layer, missing, making.root):
                bar.update(count)
    answers = making.said(layer, clips)
    for clip in clips:
        error = answers.get(clip["key"], {"error": "no answer came back for it"})["error"]
        if error is not None:
            remedy = "run the same command again; only failed captions are asked for"
            why = Rejection(stage="caption", reason="no_caption", remedy=remedy, detail=error)
            making.decisions[clip["key"]] = why
    return {clip["key"]: answers[clip["key"]] for clip in making.left(clips)}


def _pack_readable(chosen: dict[str, Row], captions: Mapping[str, Row], making: Making) -> packing.PackPlan:
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
    chosen: Mapping[str, Row], captions: Mapping[str, Row], making: Making
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
        if making.cluster is not None:
            making.cluster.join()
        run = parts.run_in_process if making.cluster is None else parts.run_parts
        keys = [key for pack in packs for key in pack.keys]
        samples = {key: {"members": chosen[key]["members"], "json": described(key)} for key in keys}
        with Progress("pack", len(keys), "clips", quiet=making.quiet) as bar:
            for outcome in packing.write_packs(packs, samples, identity, making.root.sub("pool"), store, config, run):
                if isinstance(outcome, packing.PackDamaged):
                    damaged |= outcome.clips
                else:
                    bar.update(outcome)
    return plan, damaged
