"""Several caches of one spec as one: what a stage that learns from several datasets reads."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from itertools import combinations

from torch import Tensor

from pipelines.training.data.datasets import name_of, together
from pipelines.training.latents.index import CacheRecord, LatentIndex, open_latents
from pipelines.training.latents.rows.joined import Rows
from pipelines.training.latents.rows.table import IndexEntry, LatentError, Table
from pipelines.training.latents.sample import LatentSample
from pipelines.training.latents.spec import Bucket, LatentSpec

Caches = str | Mapping[str, str]
"""The folder of one cache; or the folders of several, by the names of their datasets."""


class LatentUnion:
    """Reads like a `LatentIndex`. Keys begin with the dataset's name, so samples of two datasets are never mixed up.

    A bucket holds the samples of all caches, in order of name and key: in which order they are named changes nothing.
    """

    def __init__(self, caches: Mapping[str, LatentIndex]) -> None:
        """Raises LatentError where caches do not go together, or two are the same."""
        self._caches = {name: caches[name] for name in sorted(caches)}
        _refuse(self._caches)
        self.fingerprints = {name: cache.fingerprint for name, cache in self._caches.items()}
        self.fingerprint = together(self.fingerprints)
        tables: dict[str, dict[str, Table]] = {}
        for name, cache in self._caches.items():
            for bucket, table in cache.tables.items():
                tables.setdefault(bucket, {})[name] = table
        self.buckets = {bucket: Rows(held) for bucket, held in tables.items()}

    @property
    def made(self) -> dict[str, LatentSpec]:
        """By folder, how each cache that is read was made."""
        return {where: spec for cache in self._caches.values() for where, spec in cache.made.items()}

    @cached_property
    def shapes(self) -> dict[str, Bucket]:
        """Size and length of each bucket, by name."""
        return {bucket: shape for cache in self._caches.values() for bucket, shape in cache.shapes.items()}

    def read(self, entry: IndexEntry) -> LatentSample:
        """The sample, by one ranged read. Raises LatentError naming shard and key where it is missing or damaged."""
        return replace(self._caches[name_of(entry.key)].read(entry), key=entry.key)

    def black(self, bucket: str, *, large: bool = False) -> Tensor:
        """(C, 1, h, w): the latent of a black image of the bucket's size; `large`: of the refiner's."""
        held = next(cache for cache in self._caches.values() if bucket in cache.buckets)
        return held.black(bucket, large=large)

    @property
    def null_text(self) -> Tensor:
        """(S, D): the hidden states of the empty prompt."""
        return next(iter(self._caches.values())).null_text


def open_caches(caches: Caches) -> LatentIndex | LatentUnion:
    """Open finished caches; a single folder as `open_latents` does. Raises LatentError."""
    if isinstance(caches, str):
        return open_latents(caches)
    return LatentUnion({name: open_latents(location) for name, location in caches.items()})


def _refuse(caches: Mapping[str, LatentIndex]) -> None:
    for one, other in combinations(caches, 2):
        if caches[one].fingerprint == caches[other].fingerprint:
            raise LatentError(f"datasets {one} and {other} hold the same samples: name one of them")
        records = caches[one].record, caches[other].record
        made, wanted = map(_made_by, records)
        differing = [name for name in made if made[name] != wanted[name]]
        if differing:
            raise LatentError(
                f"the caches of {one} and {other} differ in {', '.join(differing)} and cannot be read together: make "
                f"them with the same settings and components. They were made by: {records[0].command}; "
                f"{records[1].command}"
            )


def _made_by(record: CacheRecord) -> dict[str, object]:
    """What samples of one batch must have in common."""
    return {**record.spec.model_dump(exclude={"name", "part_samples"}), **record.identities.model_dump()}
