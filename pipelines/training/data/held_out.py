"""Which samples no step learns from: what the weights of a stage are compared on."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import nsmallest
from typing import Protocol, TypeVar

from pipelines.training.latents.spec import clip_of

ONE_IN = 16
MOST = 16
LEAST = 4
"""Of the clips of a kind, one in 16 is held out, no more than 16; of fewer than 4, none."""


class Described(Protocol):
    """What must be known of a sample."""

    @property
    def key(self) -> str: ...

    @property
    def kind(self) -> str: ...


E = TypeVar("E", bound=Described)


def held_out(buckets: Mapping[str, Sequence[E]], tasks: Sequence[Callable[[E], bool]]) -> frozenset[str]:
    """Keys of the samples to hold out: all that are of some clips, whichever way, chosen by a hash of the clip's key.

    So the stages of a curriculum hold out the same clips. A task, which tells what it can use, keeps samples to learn
    from: where it would lose all of them, the clips that it uses are not held out.
    """
    entries = [entry for bucket in buckets.values() for entry in bucket]
    chosen = frozenset(clip for clips in _clips_by_kind(entries).values() for clip in chosen_of(clips))
    for usable in tasks:
        mine = [clip_of(entry.key) for entry in entries if usable(entry)]
        if chosen.issuperset(mine):
            chosen -= frozenset(mine)
    return frozenset(entry.key for entry in entries if clip_of(entry.key) in chosen)


def chosen_of(clips: Iterable[str]) -> list[str]:
    """The clips to hold out of all of one kind, by their keys."""
    keys = set(clips)
    count = 0 if len(keys) < LEAST else min(max(1, len(keys) // ONE_IN), MOST)
    return nsmallest(count, keys, key=_place)


def _clips_by_kind(entries: Iterable[Described]) -> dict[str, set[str]]:
    clips: dict[str, set[str]] = {}
    for entry in entries:
        clips.setdefault(entry.kind, set()).add(clip_of(entry.key))
    return clips


def _place(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=8, person=b"held out").digest()
