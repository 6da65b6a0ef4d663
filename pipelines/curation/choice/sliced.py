"""Selection over slices of rows: the decisions of `select` on all of them, and nothing of them in the driver.

rows/000000.parquet …      what `select` looks at, in ranges of keys; written by whoever asks
judged/, traits/           each clip by itself; what is left of it for the steps that compare
duplicates/, crowded/      `matching`, `thinning`
decisions/000000.parquet … key and, of clips that are out, stage, reason, remedy and detail
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.curation.choice import elsewhere
from pipelines.curation.choice.dedup import Duplicate
from pipelines.curation.choice.matching import DECIDED_AT_ONCE as DECIDED_AT_ONCE
from pipelines.curation.choice.matching import find_in_slices
from pipelines.curation.choice.meeting import TRAITS, Matching
from pipelines.curation.choice.selection import (
    Decisions,
    as_rejection,
    by_itself,
    content_of,
    crowded,
    motion_of,
    quality_of,
    select,
)
from pipelines.curation.choice.thinning import thin_slices
from pipelines.curation.recipe import Recipe
from pipelines.curation.records import Rejection
from pipelines.dataset.exchange import Facts, Steps, batches, read, write
from pipelines.dataset.tables import Row, concat
from skyreels.storage import Storage

DECISIONS = pa.schema([(name, pa.string()) for name in ("key", "stage", "reason", "remedy", "detail")])
_AT_ONCE = 1 << 14  # rows that are Python objects at a time

Delivered = Callable[[str, str], frozenset[str]]
"""The keys between two that an earlier run delivered."""


@dataclass(frozen=True)
class Choosing:
    """What decides: the recipe, what was delivered before, which sources were taken down, whose clips must not come
    back."""

    recipe: Recipe
    delivered: Delivered
    taken_down: frozenset[str]
    against: Sequence[Storage]


def select_slices(steps: Steps, rows: str, slices: int, choosing: Choosing) -> str:
    """The step whose slices hold the decisions on the slices of the step `rows`; a single one is decided at once."""
    if slices <= 1 and not choosing.against:
        steps.run("decisions", _AtOnce(steps.store, rows, choosing), slices)
        return "decisions"
    steps.run("traits", _Judge(steps.store, rows, slices, choosing), slices + len(choosing.against))
    matching = Matching(steps.store, "traits", slices + len(choosing.against), choosing.recipe.dedup)
    duplicates = find_in_slices(steps, matching)
    thinned = None
    if choosing.recipe.balance.enabled:
        thinned = thin_slices(steps, matching, duplicates, slices, choosing.recipe.balance)
    steps.run("decisions", _Decide(steps.store, duplicates, thinned), slices)
    return "decisions"


def decisions_of(store: Storage, index: int, step: str = "decisions") -> Decisions:
    """Of one slice."""
    rows = read(store, f"{step}/{index:06d}").to_pylist()
    return {
        row.pop("key"): Rejection(**{name: value or "" for name, value in row.items()}) if row["stage"] else None
        for row in rows
    }


def decision_table(decisions: Decisions) -> pa.Table:
    rows = [{"key": key, **(why.model_dump() if why else {})} for key, why in sorted(decisions.items())]
    return pa.Table.from_pylist(rows, DECISIONS)


@dataclass(frozen=True)
class _AtOnce:
    """All of it together."""

    store: Storage
    rows: str
    choosing: Choosing

    def __call__(self, index: int) -> Facts:
        clips = read(self.store, f"{self.rows}/{index:06d}").to_pylist()
        keys = sorted(clip["key"] for clip in clips)
        before = self.choosing.delivered(keys[0], keys[-1]) if keys else frozenset()
        decisions = select(clips, self.choosing.recipe, before, self.choosing.taken_down)
        write(self.store, f"decisions/{index:06d}", decision_table(decisions))
        return {"clips": len(decisions)}


@dataclass(frozen=True)
class _Judge:
    """Each clip of a slice by itself; slices beyond the `rows` are of other datasets, and bring traits alone."""

    store: Storage
    rows: str
    slices: int
    choosing: Choosing

    def __call__(self, index: int) -> Facts:
        if index >= self.slices:
            return self._elsewhere(index)
        _refuse_twice(read(self.store, f"{self.rows}/{index:06d}", ["key"])["key"].to_pylist())
        judged, traits = [], [TRAITS.empty_table()]
        for table in batches(self.store, f"{self.rows}/{index:06d}", _AT_ONCE):
            clips = table.to_pylist()
            keys = sorted(clip["key"] for clip in clips)
            before = self.choosing.delivered(keys[0], keys[-1])
            why = {clip["key"]: by_itself(clip, self.choosing.recipe, self.choosing.taken_down) for clip in clips}
            judged.append(decision_table(why))
            traits.append(_traits([clip for clip in clips if why[clip["key"]] is None], before))
        write(self.store, f"judged/{index:06d}", concat(judged) if judged else DECISIONS.empty_table())
        left = concat(traits).sort_by("key")
        write(self.store, f"traits/{index:06d}", left)
        return {"left": len(left)}

    def _elsewhere(self, index: int) -> Facts:
        place = index - self.slices
        found = [TRAITS.empty_table()]
        for table in elsewhere.rows_of(self.choosing.against, place, _AT_ONCE):
            rows = [row | {"key": f"elsewhere:{row['key']}"} for row in table.to_pylist()]
            theirs = _traits(rows, frozenset(row["key"] for row in rows))
            nobody = pa.nulls(len(theirs), pa.string())
            found.append(theirs.set_column(theirs.column_names.index("source_id"), "source_id", nobody))
        traits = concat(found)
        write(self.store, f"traits/{index:06d}", traits)
        return {"left": len(traits)}


@dataclass(frozen=True)
class _Decide:
    """Everything that was said of the clips of a slice, put together."""

    store: Storage
    duplicates: str
    thinned: str | None

    def __call__(self, index: int) -> Facts:
        decisions = decisions_of(self.store, index, "judged")
        for row in read(self.store, f"{self.duplicates}/{index:06d}").to_pylist():
            decisions[row["key"]] = as_rejection(Duplicate(**row))
        if self.thinned is not None:
            for row in read(self.store, f"{self.thinned}/{index:06d}").to_pylist():
                decisions[row["key"]] = crowded(row["detail"])
        write(self.store, f"decisions/{index:06d}", decision_table(decisions))
        return {"clips": len(decisions)}


def _refuse_twice(keys: Sequence[str]) -> None:
    twice, times = Counter(keys).most_common(1)[0] if keys else ("", 1)
    if times > 1:
        raise ValueError(f"clip {twice} occurs twice: give every clip once")


def _traits(clips: Sequence[Row], before: frozenset[str]) -> pa.Table:
    quality = np.array([quality_of(clip) for clip in clips], np.float64)
    columns = {
        "key": [clip["key"] for clip in clips],
        "kind": [clip["kind"] for clip in clips],
        "source_id": [clip["source_id"] for clip in clips],
        "content": [content_of(clip) for clip in clips],
        "new": [clip["key"] not in before for clip in clips],
        "quality": np.nan_to_num(quality, nan=-np.inf),
        "hashes": [clip["hashes"] or [] for clip in clips],
        "embedding": [clip.get("embedding") or None for clip in clips],
        "sound": [str(clip.get("audio.class")) for clip in clips],
        "motion": [motion_of(clip) for clip in clips],
    }
    return pa.table([pa.array(columns[field.name], field.type) for field in TRAITS], schema=TRAITS)
