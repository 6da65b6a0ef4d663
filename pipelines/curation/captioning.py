"""Captions of the clips that were chosen: what users wrote comes first, a captioner says the rest."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.curation import annotators, layers
from pipelines.curation.recipe import Recipe
from pipelines.curation.records import Rejection
from pipelines.curation.selection import Decisions
from pipelines.curation.user_captions import BadCaption, user_caption
from pipelines.dataset.caption_parts import FORMS
from pipelines.dataset.tables import Row
from skyreels.cluster import LazyCluster
from skyreels.progress import Progress
from skyreels.storage import Storage


def caption_clips(
    clips: Sequence[Row],
    meta_of: Mapping[str, Mapping[str, Any]],
    recipe: Recipe,
    root: Storage,
    cluster: LazyCluster,
    decisions: Decisions,
    *,
    quiet: bool,
) -> dict[str, Row]:
    """Captions by key; a clip whose caption failed is decided out, and asked again by the next run."""
    written = _written(clips, meta_of, recipe, decisions)
    left = [clip for clip in clips if decisions[clip["key"]] is None and not _whole(written.get(clip["key"]))]
    said = _said(left, recipe, root, cluster, decisions, quiet=quiet)
    keys = [clip["key"] for clip in clips if decisions[clip["key"]] is None]
    return {key: said.get(key, {}) | written.get(key, {}) for key in keys if key in said or key in written}


def _whole(row: Row | None) -> bool:
    return row is not None and all(form in row for form in FORMS)


def _written(
    clips: Sequence[Row], meta_of: Mapping[str, Mapping[str, Any]], recipe: Recipe, decisions: Decisions
) -> dict[str, Row]:
    """What users wrote, by key; a clip whose words cannot be used is decided out."""
    found: dict[str, Row] = {}
    if recipe.captions.user == "ignore":
        return found
    for clip in clips:
        try:
            row = user_caption(clip, meta_of, fill=recipe.captions.missing_forms == "user")
        except BadCaption as error:
            remedy = "mend the caption and run the same command again, or set captions.user=ignore"
            decisions[clip["key"]] = Rejection(stage="caption", reason="bad_caption", remedy=remedy, detail=str(error))
            continue
        if row is not None:
            found[clip["key"]] = row
    return found


def _said(
    clips: Sequence[Row], recipe: Recipe, root: Storage, cluster: LazyCluster, decisions: Decisions, *, quiet: bool
) -> dict[str, Row]:
    """What the recipe's captioner says of these clips."""
    layer = annotators.caption_layer(recipe.captions, root)
    if layer is None or not clips:
        return {}
    missing = layers.unanswered(layer, clips, root)
    if missing:
        cluster.join()
        with Progress("caption", len(missing), "clips", quiet=quiet) as bar:
            for count in layers.fill(layer, missing, root):
                bar.update(count)
    answers = layers.read_layer(layer, clips, root)
    for clip in clips:
        error = answers.get(clip["key"], {"error": "no answer came back for it"})["error"]
        if error is not None:
            remedy = "run the same command again; only failed captions are asked for"
            decisions[clip["key"]] = Rejection(stage="caption", reason="no_caption", remedy=remedy, detail=error)
    return {clip["key"]: answers[clip["key"]] for clip in clips if decisions[clip["key"]] is None}
