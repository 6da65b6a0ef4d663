"""Choosing: filters, then duplicates, then balance, all from stored scores. Pure functions over rows.

Filters come first, so that of two duplicates the one that is good enough stays.
"""

from collections.abc import Sequence

import numpy as np

from pipelines.curation.choice.balance import Cell, balance, concept_labels, motion_pattern
from pipelines.curation.choice.dedup import DedupTable, Duplicate, find_duplicates
from pipelines.curation.filters import first_broken
from pipelines.curation.recipe import Recipe
from pipelines.curation.records import Kind, Rejection
from pipelines.dataset.buckets import bucket_of
from pipelines.dataset.tables import Row

Decisions = dict[str, Rejection | None]


def select(
    clips: Sequence[Row],
    recipe: Recipe,
    kept_before: frozenset[str] = frozenset(),
    taken_down: frozenset[str] = frozenset(),
    elsewhere: Sequence[Row] = (),
) -> Decisions:
    """A decision per clip key: None to keep it, else why not.

    `clips` are rows of the pool joined with `sha256` and `embedding`. Clips in `kept_before` (an earlier manifest)
    win over later duplicates of theirs, so adding data never takes back what was delivered; nothing comes in that
    repeats a clip of `elsewhere` (rows of other datasets' manifests).
    """
    decisions: Decisions = {clip["key"]: by_itself(clip, recipe, taken_down) for clip in clips}
    for kind in Kind:
        left = [clip for clip in clips if clip["kind"] == kind and decisions[clip["key"]] is None]
        others = [row | {"key": f"elsewhere:{row['key']}"} for row in elsewhere if row["kind"] == kind]
        decisions |= _repeating(left, others, recipe, kept_before)
        left = [clip for clip in left if decisions[clip["key"]] is None]
        decisions |= _crowding(left, recipe, kept_before)
    return decisions


def with_buckets(clips: Sequence[Row], recipe: Recipe) -> list[Row]:
    """The rows with the `bucket` that each clip belongs to."""
    return [clip | {"bucket": _bucket(clip, recipe)} for clip in clips]


def _bucket(clip: Row, recipe: Recipe) -> str:
    seconds = clip["end_s"] - clip["start_s"]
    return bucket_of(Kind(clip["kind"]), clip["width"], clip["height"], seconds, recipe.shards)


def by_itself(clip: Row, recipe: Recipe, taken_down: frozenset[str]) -> Rejection | None:
    if clip["source_id"] in taken_down:
        return Rejection(stage="takedown", reason="taken_down", remedy="none: its source was taken down")
    if clip["stage"] is not None:
        return Rejection(**{name: clip[name] for name in ("stage", "reason", "remedy", "detail")})
    return first_broken(recipe.filters, Kind(clip["kind"]), clip)


def _repeating(
    clips: Sequence[Row], elsewhere: Sequence[Row], recipe: Recipe, kept_before: frozenset[str]
) -> Decisions:
    before = [*elsewhere, *(clip for clip in clips if clip["key"] in kept_before)]
    new = [clip for clip in clips if clip["key"] not in kept_before]
    found = find_duplicates(_dedup_table(new), _dedup_table(before) if before else None, recipe.dedup)
    source = {clip["key"]: clip["source_id"] for clip in clips}
    return {
        duplicate.key: as_rejection(duplicate)
        for duplicate in found
        if duplicate.method == "exact"
        or recipe.dedup.within_source
        or source[duplicate.key] != source.get(duplicate.of_key)
    }


def as_rejection(duplicate: Duplicate) -> Rejection:
    """Of a duplicate."""
    return Rejection(
        stage="dedup",
        reason=duplicate.method,
        detail=f"repeats {duplicate.of_key} (similarity {duplicate.similarity:.3f})",
        remedy="change the recipe's `dedup` section and run `jobs/curate.py refilter`",
    )


def _dedup_table(clips: Sequence[Row]) -> DedupTable:
    vectors = [clip.get("embedding") for clip in clips]
    width = next((len(vector) for vector in vectors if vector), 0)
    zeros = [0.0] * width
    return DedupTable(
        keys=[clip["key"] for clip in clips],
        content=[content_of(clip) for clip in clips],
        quality=np.array([quality_of(clip) for clip in clips], np.float64),
        hashes=[np.array(clip["hashes"] or [], np.uint64) for clip in clips],
        embeddings=np.array([vector or zeros for vector in vectors], np.float32) if width else None,
    )


def content_of(clip: Row) -> str:
    """Equal for equal spans of equal bytes."""
    return f"{clip['sha256']}:{clip['start_s']:.3f}:{clip['end_s']:.3f}" if clip["sha256"] else ""


def quality_of(clip: Row) -> float:
    """Which of two duplicates to keep: the larger and sharper picture, the wider band of sound."""
    if clip["kind"] == Kind.AUDIO:
        return float(clip.get("audio.bandwidth_hz") or 0.0)
    return min(clip["width"], clip["height"]) * (0.5 + float(clip.get("visual.sharpness") or 0.0))


def _crowding(clips: Sequence[Row], recipe: Recipe, kept_before: frozenset[str]) -> Decisions:
    if not recipe.balance.enabled or not clips:
        return {}
    known = [clip for clip in clips if clip.get("embedding")]
    vectors = np.array([clip["embedding"] for clip in known], np.float32)
    keys = [clip["key"] for clip in known]
    labels = concept_labels(keys, vectors, recipe.balance.concepts) if known else np.array([], np.int64)
    concept = {key: f"concept {label}" for key, label in zip(keys, labels, strict=True)}
    cells = {
        clip["key"]: Cell(concept.get(clip["key"], str(clip.get("audio.class"))), motion_of(clip)) for clip in clips
    }
    thinned = balance(cells, recipe.balance, kept_before)
    return {drop.key: crowded(drop.reason) for drop in thinned.dropped}


def crowded(detail: str) -> Rejection:
    remedy = "change the recipe's `balance` section and run `jobs/curate.py refilter`"
    return Rejection(stage="balance", reason="crowded_cell", detail=detail, remedy=remedy)


def motion_of(clip: Row) -> str:
    return motion_pattern(clip.get("visual.camera"), clip.get("visual.object_motion"))
