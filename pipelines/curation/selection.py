"""Choosing: filters, then duplicates, then balance, all from stored scores. Pure functions over tables.

Filters come first, so that of two duplicates the one that is good enough stays.
"""

from collections.abc import Sequence
from typing import Any

from pipelines.curation.buckets import bucket_of
from pipelines.curation.filters import first_broken
from pipelines.curation.recipe import Recipe
from pipelines.curation.records import Kind, Rejection

Row = dict[str, Any]
Decisions = dict[str, Rejection | None]


def select(clips: Sequence[Row], recipe: Recipe, kept_before: frozenset[str], taken_down: frozenset[str]) -> Decisions:
    """A decision per clip key: None to keep it, else why not.

    `clips` are rows of the pool joined with `sha256`, `uri` and `embedding`. Clips in `kept_before` (an earlier
    manifest) win over later duplicates of theirs, so adding data never takes back what was delivered.
    """
    decisions: Decisions = {clip["key"]: _by_itself(clip, recipe, taken_down) for clip in clips}
    left = [clip for clip in clips if decisions[clip["key"]] is None]
    decisions |= _duplicates(left, recipe, kept_before)
    left = [clip for clip in left if decisions[clip["key"]] is None]
    return decisions | _beyond_balance(left, recipe)


def _by_itself(clip: Row, recipe: Recipe, taken_down: frozenset[str]) -> Rejection | None:
    if clip["source_id"] in taken_down:
        return Rejection(stage="takedown", reason="taken_down", remedy="none: the source was taken down")
    if clip["stage"] is not None:
        return Rejection(**{name: clip[name] for name in ("stage", "reason", "remedy", "detail")})
    return first_broken(recipe.filters, Kind(clip["kind"]), clip)


def with_buckets(clips: Sequence[Row], recipe: Recipe) -> list[Row]:
    return [
        clip
        | {
            "bucket": bucket_of(
                Kind(clip["kind"]), clip["width"], clip["height"], clip["end_s"] - clip["start_s"], recipe.shards
            )
        }
        for clip in clips
    ]
