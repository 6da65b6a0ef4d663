"""Samples of a bucket as they are chosen from: those that a task can use, those of some clips, those of some keys.

An index of a cache answers from counts; any other sequence is looked through.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, cast, runtime_checkable

import numpy as np

from pipelines.training.latents.spec import clip_of


class HasKey(Protocol):
    """What the sampler must know of a sample."""

    @property
    def key(self) -> str: ...


E = TypeVar("E", bound=HasKey)
E_co = TypeVar("E_co", bound=HasKey, covariant=True)
Usable = Callable[[Any], bool]
"""Asked of a sample, or of what a sample holds."""


class Places(Protocol):
    """Places in a bucket, in order."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> int: ...


@runtime_checkable
class Selectable(Protocol[E_co]):
    """A sequence of samples that can be chosen from."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int, /) -> E_co: ...

    def usable(self, usable: Usable, held: Collection[str]) -> Places:
        """Places of the samples that are usable and whose keys are not `held`; a range where all are."""

    def count(self, usable: Usable) -> int:
        """How many are usable."""

    def clips(self) -> Mapping[str, Collection[str]]:
        """Keys of clips by kind: all, or so many, first by their hash, that no other can be held out."""

    def of_clips(self, clips: Collection[str]) -> Iterator[E_co]:
        """All samples of some clips, in order of place."""

    def of_keys(self, keys: Collection[str]) -> Iterator[E_co]:
        """The samples of some keys, in order of place."""


def selectable(entries: Sequence[E]) -> Selectable[E]:
    """The same sequence, to choose from."""
    return cast(Selectable[E], entries) if isinstance(entries, Selectable) else Listed(entries)


@dataclass(frozen=True)
class Listed(Generic[E]):
    """A sequence that is looked through at every question, and keeps 4 bytes for each place."""

    entries: Sequence[E]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, place: int, /) -> E:
        return self.entries[place]

    def usable(self, usable: Usable, held: Collection[str]) -> Places:
        found = (place for place, one in enumerate(self.entries) if one.key not in held and usable(one))
        places = np.fromiter(found, dtype=np.uint32)
        return range(len(self.entries)) if len(places) == len(self.entries) else cast(Places, places)

    def count(self, usable: Usable) -> int:
        return sum(map(usable, self.entries))

    def clips(self) -> Mapping[str, Collection[str]]:
        found: dict[str, set[str]] = {}
        for entry in self.entries:
            found.setdefault(getattr(entry, "kind"), set()).add(clip_of(entry.key))  # noqa: B009 (not all have it)
        return found

    def of_clips(self, clips: Collection[str]) -> Iterator[E]:
        return (entry for entry in self.entries if clip_of(entry.key) in clips)

    def of_keys(self, keys: Collection[str]) -> Iterator[E]:
        return (entry for entry in self.entries if entry.key in keys)
