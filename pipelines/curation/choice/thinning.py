"""Balance over slices, by steps in tasks: counts of every cell first, then its draws.

The same cells, quotas and draws as `balance` makes of all clips together: concepts are found from the same even sample.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.curation.choice.balance import Cell, place_of, quota, told
from pipelines.curation.choice.clusters import TRAINED_ON_PER_CLUSTER, centroids, nearest_centroids, unit
from pipelines.curation.choice.meeting import Matching, vectors_of
from pipelines.curation.recipe import BalanceConfig
from pipelines.curation.records import Kind
from pipelines.dataset.exchange import Facts, Steps, read, receive, send, write
from pipelines.dataset.tables import concat

Thinned = Mapping[str, Mapping[Cell, tuple[int, int]]]
"""Of each kind the cells that must give up clips: how many they hold, how many they may keep."""

_KINDS = [kind.value for kind in Kind]


def thin_slices(steps: Steps, matching: Matching, duplicates: str, slices: int, config: BalanceConfig) -> str:
    """The step whose slices hold the clips (key, detail) that crowded cells give up. `slices`: those of clips that may
    come in, the first of the matching's."""
    facts = steps.run("left", _Left(matching, duplicates), slices)
    wanted = _even_sample([fact["known"] for fact in facts], config.concepts)
    steps.run("concepts-sampled", _SampleOf(matching, wanted), slices)
    steps.run("concepts", _Concepts(matching, slices, config.concepts), 1)
    counted = steps.run("cells", _Cells(matching), slices)
    crowd = _crowd(counted, config)
    steps.run("crowd", _Crowd(matching, crowd, slices), slices)
    steps.run("draw", _Draw(matching, crowd, slices), slices)
    steps.run("crowded", _Received(matching, slices), slices)
    return "crowded"


def _even_sample(known: Sequence[Mapping[str, int]], concepts: int) -> list[dict[str, list[int]]]:
    """Of each slice, which of its embedded clips, by kind, are in an even sample of them all."""
    wanted: list[dict[str, list[int]]] = [{} for _ in known]
    for kind in _KINDS:
        ends = np.cumsum([counts[kind] for counts in known])
        total = int(ends[-1]) if len(ends) else 0
        size = min(total, min(concepts, total) * TRAINED_ON_PER_CLUSTER)
        for row in np.linspace(0, max(0, total - 1), size).round().astype(np.int64):
            index = int(np.searchsorted(ends, row, side="right"))
            first = int(ends[index - 1]) if index else 0
            wanted[index].setdefault(kind, []).append(int(row) - first)
    return wanted


def _crowd(counted: Sequence[Facts], config: BalanceConfig) -> Thinned:
    sizes: dict[str, Counter[Cell]] = {kind: Counter() for kind in _KINDS}
    for fact in counted:
        for kind, concept, motion, count in fact["cells"]:
            sizes[kind][Cell(concept, motion)] += count
    quotas = {kind: quota(of_kind, config) for kind, of_kind in sizes.items()}
    return {
        kind: {cell: (size, quotas[kind][cell]) for cell, size in of_kind.items() if quotas[kind][cell] < size}
        for kind, of_kind in sizes.items()
    }


@dataclass(frozen=True)
class _Left:
    """The clips of a slice that repeat nothing."""

    matching: Matching
    duplicates: str

    def __call__(self, index: int) -> Facts:
        store = self.matching.store
        table = self.matching.traits_of(index, ["key", "kind", "new", "embedding", "sound", "motion"])
        repeated = read(store, f"{self.duplicates}/{index:06d}", ["key"])["key"]
        left = table.filter(pc.invert(pc.is_in(table["key"], repeated.combine_chunks()))).sort_by("key")
        write(store, f"left/{index:06d}", left)
        return {"known": {kind: len(_known(left, kind)) for kind in _KINDS}}


@dataclass(frozen=True)
class _SampleOf:
    """The clips of a slice that are in the even sample."""

    matching: Matching
    wanted: Sequence[Mapping[str, Sequence[int]]]

    def __call__(self, index: int) -> Facts:
        left = read(self.matching.store, f"left/{index:06d}", ["key", "kind", "embedding"])
        found = [left.slice(0, 0)]
        for kind, rows in self.wanted[index].items():
            found.append(_known(left, kind).take(pa.array(rows, pa.int64())))
        write(self.matching.store, f"concepts-sampled/{index:06d}", concat(found))
        return {}


@dataclass(frozen=True)
class _Concepts:
    """The centres of each kind's concepts."""

    matching: Matching
    slices: int
    concepts: int

    def __call__(self, index: int) -> Facts:
        store = self.matching.store
        sample = concat([read(store, f"concepts-sampled/{index:06d}") for index in range(self.slices)])
        kinds, found = [], []
        for kind in _KINDS:
            vectors = unit(vectors_of(_known(sample, kind)))
            centres = centroids(vectors, self.concepts).tolist()
            kinds += [kind] * len(centres)
            found += centres
        write(store, "concepts/000000", pa.table({"kind": pa.array(kinds, pa.string()),
                                                  "centre": pa.array(found, pa.list_(pa.float32()))}))  # fmt: skip
        return {}


@dataclass(frozen=True)
class _Cells:
    """The cell of each clip of a slice, and how many each has."""

    matching: Matching

    def __call__(self, index: int) -> Facts:
        store = self.matching.store
        left, centres = read(store, f"left/{index:06d}"), read(store, "concepts/000000")
        concept = np.array([str(sound) for sound in left["sound"].to_pylist()], object)
        for kind in _KINDS:
            rows = np.flatnonzero(_is_known(left, kind).to_numpy(zero_copy_only=False))
            if len(rows):
                vectors = unit(vectors_of(left.take(pa.array(rows))))
                mine = vectors_of(centres.filter(pc.equal(centres["kind"], kind)), "centre")
                labels = nearest_centroids(vectors, mine, 1)[:, 0]
                concept[rows] = [f"concept {label}" for label in labels]
        placed = left.select(["key", "kind", "new", "motion"]).append_column("concept", pa.array(concept, pa.string()))
        write(store, f"cells/{index:06d}", placed)
        counts = placed.group_by(["kind", "concept", "motion"]).aggregate([([], "count_all")]).to_pylist()
        return {"cells": [[c["kind"], c["concept"], c["motion"], c["count_all"]] for c in counts]}


@dataclass(frozen=True)
class _Crowd:
    """Sends the clips of crowded cells where all of their cell are seen together."""

    matching: Matching
    crowd: Thinned
    slices: int

    def __call__(self, index: int) -> Facts:
        store = self.matching.store
        placed = read(store, f"cells/{index:06d}")
        number = _numbered(self.crowd)
        names = zip(*(placed[name].to_pylist() for name in ("kind", "concept", "motion")), strict=True)
        cell = np.array([number.get((kind, Cell(concept, motion)), -1) for kind, concept, motion in names], np.int64)
        rows = placed.select(["key", "new"]).filter(pa.array(cell >= 0))
        cell = cell[cell >= 0]
        rows = rows.append_column("cell", pa.array(cell))
        rows = rows.append_column("slice", pa.array(np.full(len(rows), index, np.int32)))
        places = b"".join(place_of(key) for key in rows["key"].to_pylist())
        rows = rows.append_column("place", pa.array(np.frombuffer(places, ">u8").astype(np.uint64)))
        send(store, f"crowd/{index:06d}", rows, cell % self.slices)
        return {"rows": len(rows)}


@dataclass(frozen=True)
class _Draw:
    """Of each crowded cell the clips beyond its quota: what was delivered stays first, then an even draw."""

    matching: Matching
    crowd: Thinned
    slices: int

    def __call__(self, index: int) -> Facts:
        rows = receive(self.matching.store, "crowd", self.slices, index)
        order = [("cell", "ascending"), ("new", "ascending"), ("place", "ascending"), ("key", "ascending")]
        rows = rows.take(pc.sort_indices(rows, sort_keys=order))
        cells = {n: (cell, self.crowd[kind][cell]) for (kind, cell), n in _numbered(self.crowd).items()}
        number = rows["cell"].to_numpy()
        there, starts = np.unique(number, return_index=True)
        rank = np.arange(len(rows)) - np.repeat(starts, np.diff([*starts, len(rows)]))
        most = np.array([cells[int(n)][1][1] for n in there], np.int64)
        over = rows.filter(pa.array(rank >= np.repeat(most, np.diff([*starts, len(rows)]))))
        said = {n: told(cell, size, keeps) for n, (cell, (size, keeps)) in cells.items()}
        details = pa.array([said[n] for n in over["cell"].to_pylist()], pa.string())
        table = over.select(["key"]).append_column("detail", details)
        send(self.matching.store, f"draw/{index:06d}", table, over["slice"].to_numpy().astype(np.int64))
        return {"dropped": len(over)}


@dataclass(frozen=True)
class _Received:
    """What the cells gave up, of one slice."""

    matching: Matching
    slices: int

    def __call__(self, index: int) -> Facts:
        found = receive(self.matching.store, "draw", self.slices, index)
        write(self.matching.store, f"crowded/{index:06d}", found.sort_by("key"))
        return {"dropped": len(found)}


def _numbered(crowd: Thinned) -> dict[tuple[str, Cell], int]:
    named = sorted((kind, cell) for kind, cells in crowd.items() for cell in cells)
    return {cell: number for number, cell in enumerate(named)}


def _is_known(rows: pa.Table, kind: str) -> pa.ChunkedArray:
    return pc.and_(pc.equal(rows["kind"], kind), pc.is_valid(rows["embedding"]))


def _known(rows: pa.Table, kind: str) -> pa.Table:
    """Those of a kind that have an embedding."""
    return rows.filter(_is_known(rows, kind))
