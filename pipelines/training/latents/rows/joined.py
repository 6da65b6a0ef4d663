"""Tables of one bucket, of one cache or several, as one sequence of samples to choose from."""

import bisect
import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.training.data.datasets import key_within
from pipelines.training.data.held_out import smallest_of
from pipelines.training.data.selection import Places, Usable
from pipelines.training.latents.rows.table import IndexEntry, Table, Wanted
from pipelines.training.latents.spec import clip_of
from skyreels.commits import digest, stable_json
from skyreels.storage import StorageError

logger = logging.getLogger(__name__)

ALONE = ""
"""The dataset's name where there is one: keys are as they are cached."""


class Rows(Sequence[IndexEntry]):
    """The samples of a bucket, those of each dataset in order of key. A sample is read from the map when it is asked
    for: `Selectable`."""

    def __init__(self, tables: Mapping[str, Table]) -> None:
        """`tables` by the names of their datasets, of which keys tell; or one, under `ALONE`."""
        self._parts = tuple(_Part(name, table) for name, table in tables.items())
        self._starts = list(accumulate((len(table) for table in tables.values()), initial=0))
        self._held_rows = lru_cache(2)(self._rows_of)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return tuple(self[number] for number in range(*place.indices(len(self))))
        place = place + len(self) if place < 0 else place
        if not 0 <= place < len(self):
            raise IndexError(f"place {place} of {len(self)} samples")
        number = bisect.bisect_right(self._starts, place) - 1
        return self._parts[number].entry(place - self._starts[number])

    @property
    def parts(self) -> tuple["_Part", ...]:
        return self._parts

    def usable(self, usable: Usable, held: Collection[str]) -> Places:
        chosen = []
        for part, start, rows in zip(self._parts, self._starts, self._held_rows(frozenset(held)), strict=False):
            wanted = part.wanted(usable)
            mine = [row for row in rows if part.holds(row, wanted)]
            left = part.table.count(wanted) - len(mine)
            apart = {number for number in wanted if part.count_in(mine, number) < part.table.count((number,))}
            if left:
                named = tuple(sorted(apart)), tuple(row for row in mine if part.holds(row, tuple(apart)))
                chosen.append(_Chosen(part.table, start, wanted, tuple(mine), named))
        places = ChosenPlaces(chosen)
        return range(len(self)) if len(places) == len(self) else places

    def count(self, usable: Usable) -> int:
        return sum(part.table.count(part.wanted(usable)) for part in self._parts)

    def clips(self) -> Mapping[str, Collection[str]]:
        found: dict[str, set[str]] = {}
        for part in self._parts:
            found.setdefault(part.kind, set()).update(part.smallest())
        return found

    def of_clips(self, clips: Collection[str]) -> Iterator[IndexEntry]:
        for part in self._parts:
            yield from map(part.entry, sorted({row for clip in clips for row in part.rows_of_clip(clip)}))

    def of_keys(self, keys: Collection[str]) -> Iterator[IndexEntry]:
        for part, rows in zip(self._parts, self._held_rows(frozenset(keys)), strict=True):
            yield from map(part.entry, rows)

    def _rows_of(self, keys: frozenset[str]) -> list[list[int]]:
        return [sorted(row for key in keys if (row := part.find(key)) is not None) for part in self._parts]


@dataclass(frozen=True)
class _Part:
    """A table, and the dataset that its keys tell of."""

    name: str
    table: Table

    @property
    def kind(self) -> str:
        return self.table.facts.contents[0].kind

    def entry(self, row: int) -> IndexEntry:
        entry = self.table.entry(row)
        return replace(entry, key=self._told(entry.key)) if self.name else entry

    def wanted(self, usable: Usable) -> Wanted:
        return tuple(number for number, contents in enumerate(self.table.facts.contents) if usable(contents))

    def holds(self, row: int, wanted: Wanted) -> bool:
        return self.table.contents_of(row) in wanted

    def count_in(self, rows: Sequence[int], number: int) -> int:
        return sum(self.table.contents_of(row) == number for row in rows)

    def find(self, key: str) -> int | None:
        """The row of a key."""
        own = self._own(key)
        if own is None:
            return None
        row = self.table.search(own)
        return row if row < len(self.table) and self.table.key(row) == own else None

    def rows_of_clip(self, clip: str) -> Iterator[int]:
        """The clip itself, its windows and its frames: see `clip_of`."""
        own = self._own(clip)
        for stem in () if own is None else (own, f"{own}-i", f"{own}-w"):
            row = self.table.search(stem)
            while row < len(self.table) and (key := self.table.key(row)).startswith(stem):
                if clip_of(key) == own:
                    yield row
                if stem == own:
                    break
                row += 1

    def smallest(self) -> Sequence[str]:
        """Clips of the table that may be held out, as they are told. Among several datasets the hash is of the whole
        key: then all keys are looked through once, and what was found is kept beside the table."""
        if not self.name:
            return self.table.facts.smallest
        storage, file = self.table.storage, f"index/{self.table.bucket}.held-{digest({'name': self.name})}.json"
        known = {"fingerprint": self.table.fingerprint, "name": self.name}
        if storage.exists(file) and (found := _read(storage.read(file), known)) is not None:
            return found
        clips = smallest_of(self._told(clip_of(key)) for key in self.table.every_key())
        try:
            storage.write(file, stable_json({**known, "clips": clips}))
        except StorageError as error:
            logger.warning("%s; whoever opens the cache looks through all keys again", error)
        return clips

    def _told(self, key: str) -> str:
        return key_within(self.name, key) if self.name else key

    def _own(self, key: str) -> str | None:
        """As the table has it; None for a key of another dataset."""
        if not self.name:
            return key
        start = key_within(self.name, "")
        return key.removeprefix(start) if key.startswith(start) else None


@dataclass(frozen=True)
class _Chosen:
    """Of a table that begins at `start`: the rows of the contents `wanted` but those `held`. `named` is equal for equal
    rows: the contents that are left, and which of their rows are held."""

    table: Table
    start: int
    wanted: Wanted
    held: tuple[int, ...]
    named: tuple[Wanted, tuple[int, ...]]

    def __len__(self) -> int:
        return self.table.count(self.wanted) - len(self.held)

    def place(self, number: int, skipped: NDArray[np.int64]) -> int:
        """`skipped[i]`: how many others come before the i-th row that is held."""
        among = number + int(np.searchsorted(skipped, number, side="right"))
        return self.start + self.table.select(self.wanted, among)

    def skipped(self) -> NDArray[np.int64]:
        places = [self.table.place(self.wanted, row) for row in self.held]
        return np.array([place - number for number, place in enumerate(places)], np.int64)


class ChosenPlaces(Sequence[int]):
    """Places of samples that were chosen by what they hold; each is found when it is asked for."""

    def __init__(self, chosen: Sequence[_Chosen]) -> None:
        self._chosen = tuple(chosen)
        self._skipped = [one.skipped() for one in chosen]
        self._starts = list(accumulate(map(len, chosen), initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < len(self):
            raise IndexError(f"{number} of {len(self)} places")
        at = bisect.bisect_right(self._starts, number) - 1
        return self._chosen[at].place(number - self._starts[at], self._skipped[at])

    @property
    def identity(self) -> object:
        """Equal for equal places of one bucket."""
        return tuple((one.start, one.named) for one in self._chosen)


def _read(data: bytes, known: Mapping[str, str]) -> list[str] | None:
    """What `smallest` kept; None where it is of another cache, or nothing that was kept."""
    try:
        values = json.loads(data)
        kept: list[str] = values["clips"]
    except (ValueError, KeyError, TypeError):
        return None
    return kept if all(values.get(name) == value for name, value in known.items()) else None
