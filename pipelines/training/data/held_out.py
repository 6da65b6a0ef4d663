"""Which samples no step learns from: what the weights of a stage are compared on."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import nsmallest
from typing import Any, TypeVar

from pipelines.training.data.selection import HasKey, selectable
from pipelines.training.latents.spec import clip_of

ONE_IN = 16
MOST = 16
LEAST = 4
"""Of the clips of a kind, one in 16 is held out, no more than 16; of fewer than 4, none."""

E = TypeVar("E", bound=HasKey)


def held_out(buckets: Mapping[str, Sequence[E]], tasks: Sequence[Callable[[Any], bool]]) -> frozenset[str]:
    """Keys of the samples to hold out: all that are of some clips, whichever way, chosen by a hash of the clip's key.

    So the stages of a curriculum hold out the same clips. A task, which tells what it can use, keeps samples to learn
    from: where it would lose all of them, the clips that it uses are not held out.
    """
    held = [selectable(bucket) for bucket in buckets.values()]
    by_kind: dict[str, set[str]] = {}
    for kind, clips in (found for bucket in held for found in bucket.clips().items()):
        by_kind.setdefault(kind, set()).update(clips)
    chosen = frozenset(clip for clips in by_kind.values() for clip in chosen_of(clips))
    entries = [(clip_of(entry.key), entry) for bucket in held for entry in bucket.of_clips(chosen)]
    for usable in tasks:
        mine = [clip for clip, entry in entries if clip in chosen and usable(entry)]
        if len(mine) == sum(bucket.count(usable) for bucket in held):
            chosen -= frozenset(mine)
    return frozenset(entry.key for clip, entry in entries if clip in chosen)


def chosen_of(clips: Iterable[str]) -> list[str]:
    """The clips to hold out of all of one kind, by their keys: of the smallest, as many as there are clips for."""
    keys = set(clips)
    count = 0 if len(keys) < LEAST else min(max(1, len(keys) // ONE_IN), MOST)
    return nsmallest(count, keys, key=_place)


def smallest_of(clips: Iterable[str]) -> list[str]:
    """Of any number of keys, in flat memory, those that decide what `chosen_of` says of them and others together: it
    tells no more clips apart than a share of them makes the most."""
    kept: dict[str, bytes] = {}
    bound = b"\xff" * 8
    last = None
    for clip in clips:
        if clip == last or (place := _place(clip)) > bound:
            continue
        last = clip
        kept[clip] = place
        if len(kept) >= 2 * ONE_IN * MOST:
            kept = {one: kept[one] for one in nsmallest(ONE_IN * MOST, kept, key=kept.__getitem__)}
            bound = max(kept.values())
    return nsmallest(ONE_IN * MOST, kept, key=kept.__getitem__)


def _place(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=8, person=b"held out").digest()
