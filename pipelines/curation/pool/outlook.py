"""What a run would do: counted source by source, so that a listing of any length can be asked about."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipelines.curation.pool.plan import Part, Plan, added, remaining_parts, stored_plans
from pipelines.curation.recipe import ExtractConfig
from pipelines.curation.records import Kind, Source
from skyreels.storage import Storage

_SHOWN = 20
_KINDS = tuple(Kind)


@dataclass(frozen=True)
class Outlook:
    """Sources by kind, parts in all, those that are left with what they read, and the `first` of these."""

    sources: Mapping[Kind, int]
    parts: int
    left: int
    left_bytes: int
    first: tuple[Part, ...]


def look_ahead(listed: Iterable[Sequence[Source]], pool: Storage, extract: ExtractConfig) -> Outlook:
    """Of the stored plan and of what these sources would add to it. Writes nothing.

    Held are 9 bytes for each source, and those that changed.
    """
    counted, fresh = _Counted(), _Counted()
    for plan in stored_plans(pool, extract):
        counted.plan(plan)
    changed: dict[str, Source] = {}
    for sources in listed:
        new = added(pool, sources, extract)
        counted.plan(new)
        fresh.leave(new.parts)
        changed |= new.seen
    for parts in remaining_parts(pool, extract):
        counted.leave(Plan(tuple(parts), changed).current)
    return counted.outlook(fresh)


@dataclass
class _Counted:
    ids: "array[int]" = field(default_factory=lambda: array("Q"))
    kinds: "array[int]" = field(default_factory=lambda: array("B"))
    parts: int = 0
    left: int = 0
    left_bytes: int = 0
    first: list[Part] = field(default_factory=list)

    def plan(self, plan: Plan) -> None:
        self.parts += len(plan.parts)
        for source in plan.sources.values():
            self.ids.append(int(source.source_id, 16))
            self.kinds.append(_KINDS.index(source.kind))

    def leave(self, parts: Sequence[Part]) -> None:
        """These are to be done."""
        self.left += len(parts)
        self.left_bytes += sum(source.size for part in parts for source in part.sources)
        self.first += parts[: _SHOWN - len(self.first)]

    def outlook(self, fresh: "_Counted") -> Outlook:
        """With the parts that are new. A source that was planned again counts once, as what it was last."""
        ids, kinds = np.array(self.ids, np.uint64)[::-1], np.array(self.kinds, np.uint8)[::-1]
        _, last = np.unique(ids, return_index=True)
        many = np.bincount(kinds[last], minlength=len(_KINDS))
        sources = {kind: int(count) for kind, count in zip(_KINDS, many, strict=True) if count}
        left, left_bytes = self.left + fresh.left, self.left_bytes + fresh.left_bytes
        return Outlook(sources, self.parts, left, left_bytes, tuple([*self.first, *fresh.first][:_SHOWN]))
