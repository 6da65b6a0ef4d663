"""Duplicates among clips in slices, by steps in tasks: the answers of `find_duplicates` on all of them together.

    traits of a slice -> who meets whom: equal contents, equal bands of hashes, the same cell of meaning
    meetings          -> pairs that may match, and the groups that these connect
    groups            -> `descend`, in order of rank, some groups in each task

Clips that meet nobody are no duplicates and are not looked at again; what is said of a clip depends on its group alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.curation.choice.clusters import unit
from pipelines.curation.choice.dedup import DedupTable, Duplicate, descend, near_pairs
from pipelines.curation.choice.groups import Groups, Nodes, find_groups, groups_of, nodes_of, write_pairs
from pipelines.curation.choice.hash_index import band_count, distinct_hashes, equal_in_band
from pipelines.curation.choice.meeting import (
    KINDS,
    SAMPLE,
    TRAITS,
    FindCentres,
    Matching,
    Meet,
    SampleEmbeddings,
    hashes_of,
    spread,
    vectors_of,
)
from pipelines.dataset.exchange import Facts, Steps, receive, send, write

_PAIRS = pa.schema({"kind": pa.string(), "later": pa.string(), "earlier": pa.string(), "likeness": pa.float32()})
_FOUND = pa.schema({"key": pa.string(), "of_key": pa.string(), "method": pa.string(), "similarity": pa.float64()})
_CELL = 1 << 17  # clips of one kind that are compared by meaning in one task; of more, only neighbours are
DECIDED_AT_ONCE = 1 << 17  # clips that are decided in one task, where no group is larger

_Placed = tuple[NDArray[np.int64], NDArray[np.float32]]
"""(P, 2) rows of pairs, later and earlier, and how alike they are."""


def find_in_slices(steps: Steps, matching: Matching) -> str:
    """The step whose slices hold the duplicates of each slice: key, of_key, method, similarity."""
    facts = steps.run("count", _Count(matching), matching.slices)
    widths = sorted({width for fact in facts for width in fact["widths"]})
    if len(widths) > 1:
        raise ValueError(f"embeddings of {widths} numbers cannot be compared: embed all clips with one backend")
    cells = _cells(steps, matching, facts)
    bands = {kind: band_count(sum(f["hashes"][kind] for f in facts), matching.config.perceptual_bits or 0)
             for kind in KINDS}  # fmt: skip
    steps.run("meet", Meet(matching, bands, cells), matching.slices)
    known = max(1, sum(cells.values()))
    met = [
        *steps.run("frames", _Frames(matching), matching.slices),
        *steps.run("meaning", _Meaning(matching), known),
    ]
    files = [f"frames/groups/{index:06d}" for index in range(matching.slices)]
    files += [f"meaning/groups/{index:06d}" for index in range(known)]
    groups = find_groups(steps, files, sum(fact["met"] for fact in met))
    tasks = max(1, -(-groups.nodes // DECIDED_AT_ONCE))
    steps.run("involved", _Involved(matching, known, groups, tasks), matching.slices)
    steps.run("descend", _Descend(matching), tasks)
    steps.run("duplicates", _Received(matching, tasks), matching.slices)
    return "duplicates"


def _cells(steps: Steps, matching: Matching, facts: Sequence[Facts]) -> dict[str, int]:
    """How many cells of meaning each kind has; where it is more than one, their centres are written down."""
    if matching.config.semantic_cosine is None:
        return dict.fromkeys(KINDS, 0)
    known = {kind: sum(fact["known"][kind] for fact in facts) for kind in KINDS}
    cells = {kind: -(-count // _CELL) for kind, count in known.items()}
    many = {kind: SAMPLE / known[kind] for kind, count in cells.items() if count > 1}
    if many:
        steps.run("sampled", SampleEmbeddings(matching, many), matching.slices)
        steps.run("centres", FindCentres(matching, cells), 1)
    return cells


@dataclass(frozen=True)
class _Count:
    """How many clips there are to match, by kind."""

    matching: Matching

    def __call__(self, index: int) -> Facts:
        table = self.matching.traits_of(index, ["kind", "hashes", "embedding"])
        by_kind = {kind: table.filter(pc.equal(table["kind"], kind)) for kind in KINDS}
        hashes = {kind: len(distinct_hashes(hashes_of(rows))[0]) for kind, rows in by_kind.items()}
        lengths = pc.list_value_length(table["embedding"])
        return {
            "hashes": hashes,
            "known": {kind: len(rows) - rows["embedding"].null_count for kind, rows in by_kind.items()},
            "widths": [width for width in pc.unique(lengths).to_pylist() if width],
        }


@dataclass(frozen=True)
class _Frames:
    """Pairs with frames alike among what met by bands, and which clips those and equal contents connect."""

    matching: Matching

    def __call__(self, index: int) -> Facts:
        store, slices = self.matching.store, self.matching.slices
        connected = [np.empty((0, 2), np.uint64)]
        if self.matching.config.exact:
            connected.append(_of_one_content(receive(store, "meet/contents", slices, index)))
        pairs, owners = _PAIRS.empty_table(), np.empty(0, np.int64)
        if self.matching.config.perceptual_bits is not None:
            rows = _by_rank(receive(store, "meet/bands", slices, index))
            found = self._pairs(rows)
            pairs, owners = _pairs_of(rows, found), _slices_of(rows, found[:, 0])
            connected.append(_nodes_of(rows, found))
        send(store, f"frames/{index:06d}", pairs, owners)
        write_pairs(store, f"frames/groups/{index:06d}", np.concatenate(connected))
        return {"pairs": len(pairs), "met": sum(map(len, connected))}

    def _pairs(self, rows: pa.Table) -> NDArray[np.int64]:
        """(P, 2) rows, later and earlier, of different clips in order of rank."""
        if not len(rows):
            return np.empty((0, 2), np.int64)
        keys = np.asarray(rows["key"].to_pylist())
        owners = np.concatenate([[0], np.cumsum(keys[1:] != keys[:-1])])
        first_row = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        new = np.flatnonzero(rows["new"].to_numpy(zero_copy_only=False))
        first_new = int(owners[new[0]]) if len(new) else int(owners[-1]) + 1
        met, hashes = rows["met"].to_numpy(), rows["hash"].to_numpy()
        codes = np.unique(equal_in_band(hashes, owners, met, first_new, self.matching.config.perceptual_bits or 0))
        return first_row[np.stack([codes >> 32, codes & 0xFFFFFFFF], axis=1)]


@dataclass(frozen=True)
class _Meaning:
    """Pairs alike by meaning within a cell."""

    matching: Matching

    def __call__(self, index: int) -> Facts:
        store = self.matching.store
        pairs, owners, connected = _PAIRS.empty_table(), np.empty(0, np.int64), np.empty((0, 2), np.uint64)
        if self.matching.config.semantic_cosine is not None:
            rows = _by_rank(receive(store, "meet/vectors", self.matching.slices, index))
            found, likeness = self._pairs(rows, self.matching.config.semantic_cosine)
            pairs, owners = _pairs_of(rows, found, likeness), _slices_of(rows, found[:, 0])
            connected = _nodes_of(rows, found)
        send(store, f"meaning/{index:06d}", pairs, owners)
        write_pairs(store, f"meaning/groups/{index:06d}", connected)
        return {"pairs": len(pairs), "met": len(connected)}

    @staticmethod
    def _pairs(rows: pa.Table, cosine: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        if not len(rows):
            return np.empty((0, 2), np.int64), np.empty(0, np.float32)
        vectors = unit(vectors_of(rows))
        new = np.flatnonzero(rows["new"].to_numpy(zero_copy_only=False))
        first_new = int(new[0]) if len(new) else len(rows)
        member = rows["member"].to_numpy(zero_copy_only=False)
        found = near_pairs(vectors, rows["key"].to_pylist(), first_new, cosine, member)
        return found, np.array([vectors[i] @ vectors[j] for i, j in found], np.float32)


@dataclass(frozen=True)
class _Involved:
    """The traits of those clips of a slice that are in a group, without what only the pairs needed, and their pairs."""

    matching: Matching
    cells: int
    groups: Groups
    tasks: int

    def __call__(self, index: int) -> Facts:
        store, name = self.matching.store, f"{index:06d}"
        table = self.matching.traits_of(index, [name for name in TRAITS.names if name != "embedding"])
        owner = np.full(len(table), index, np.int32)
        held, group = groups_of(store, self.groups, index, nodes_of(table["key"].to_pylist(), owner))
        left = table.filter(pa.array(held)).append_column("slice", pa.array(owner[held]))
        task = (spread(group, 0) % np.uint64(self.tasks)).astype(np.int64)
        send(store, f"involved/clips/{name}", left, task)
        for step, senders in (("frames", self.matching.slices), ("meaning", self.cells)):
            pairs = receive(store, step, senders, index)
            later = pc.index_in(pairs["later"], left["key"].combine_chunks()).to_numpy()
            send(store, f"involved/{step}/{name}", pairs, task[later.astype(np.int64)])
        return {"rows": len(left)}


@dataclass(frozen=True)
class _Descend:
    """Decides, going down the ranks, of all clips of some groups."""

    matching: Matching

    def __call__(self, index: int) -> Facts:
        clips, frames, meaning = (
            receive(self.matching.store, f"involved/{what}", self.matching.slices, index)
            for what in ("clips", "frames", "meaning")
        )
        found, owners = [], [np.empty(0, np.int64)]
        for kind in KINDS:
            rows = _by_rank(clips.filter(pc.equal(clips["kind"], kind)))
            place = {key: i for i, key in enumerate(rows["key"].to_pylist())}
            counted = self._decided(rows, place, *(self._placed(pairs, kind, place) for pairs in (frames, meaning)))
            found += counted
            owners.append(_slices_of(rows, np.array([place[one.key] for one in counted], np.int64)))
        columns: list[Any] = list(zip(*found, strict=True)) or [[]] * len(_FOUND)
        table = pa.table([pa.array(c, t) for c, t in zip(columns, _FOUND.types, strict=True)], schema=_FOUND)
        send(self.matching.store, f"descend/{index:06d}", table, np.concatenate(owners))
        return {"involved": len(clips), "duplicates": len(found)}

    def _decided(self, rows: pa.Table, place: dict[str, int], frames: _Placed, meaning: _Placed) -> list[Duplicate]:
        """Of the clips of a kind."""
        near, cosines = meaning
        likeness = dict(zip(map(tuple, near.tolist()), cosines.tolist(), strict=True))
        first_new = int(np.count_nonzero(~rows["new"].to_numpy(zero_copy_only=False)))
        ranked = DedupTable(list(place), rows["content"].to_pylist(), rows["quality"].to_numpy(), hashes_of(rows))
        found = descend(ranked, first_new, np.unique(frames[0], axis=0), np.unique(near, axis=0),
                        lambda i, j: likeness[i, j], self.matching.config)  # fmt: skip
        source = rows["source_id"].to_pylist()
        return [
            one for one in found
            if one.method == "exact" or self.matching.config.within_source
            or source[place[one.key]] != source[place[one.of_key]]
        ]  # fmt: skip

    @staticmethod
    def _placed(pairs: pa.Table, kind: str, place: dict[str, int]) -> _Placed:
        mine = pairs.filter(pc.equal(pairs["kind"], kind))
        rows = [[place[key] for key in mine[name].to_pylist()] for name in ("later", "earlier")]
        return np.array(rows, np.int64).T.reshape(-1, 2), mine["likeness"].to_numpy()


@dataclass(frozen=True)
class _Received:
    """The duplicates of one slice, in order of key."""

    matching: Matching
    tasks: int

    def __call__(self, index: int) -> Facts:
        found = receive(self.matching.store, "descend", self.tasks, index).sort_by("key")
        write(self.matching.store, f"duplicates/{index:06d}", found)
        return {"duplicates": len(found)}


def _by_rank(rows: pa.Table) -> pa.Table:
    """What was kept before by key, then the rest by quality and key."""
    new = rows["new"]
    worse = pc.if_else(new, pc.negate(rows["quality"]), 0.0)
    order = [("new", "ascending"), ("worse", "ascending"), ("key", "ascending")]
    order += [("hash", "ascending")] if "hash" in rows.column_names else []
    ranked = pc.sort_indices(rows.append_column("worse", worse), sort_keys=order)
    return rows.take(ranked)


def _pairs_of(rows: pa.Table, found: NDArray[np.int64], likeness: NDArray[np.float32] | None = None) -> pa.Table:
    """Pairs of rows as pairs of keys."""
    keys, kinds = rows["key"].combine_chunks(), rows["kind"].combine_chunks()
    later, earlier = (pa.array(found[:, side]) for side in (0, 1))
    alike = np.zeros(len(found), np.float32) if likeness is None else likeness
    return pa.table([kinds.take(later), keys.take(later), keys.take(earlier), pa.array(alike)], schema=_PAIRS)


def _slices_of(rows: pa.Table, places: NDArray[np.int64]) -> NDArray[np.int64]:
    return rows["slice"].to_numpy()[places].astype(np.int64)


def _nodes_of(rows: pa.Table, pairs: NDArray[np.int64]) -> Nodes:
    """Pairs of rows as pairs of nodes, (P, 2)."""
    there, place = np.unique(pairs, return_inverse=True)
    held = rows.take(pa.array(there))
    nodes = nodes_of(held["key"].to_pylist(), held["slice"].to_numpy())
    return nodes[place.reshape(-1, 2)]


def _of_one_content(rows: pa.Table) -> Nodes:
    """(P, 2) nodes: every clip that shares its content, with the first that has it."""
    if not len(rows):
        return np.empty((0, 2), np.uint64)
    _, first, group = np.unique(rows["content"].to_numpy(), return_index=True, return_inverse=True)
    pairs = np.stack([first[group], np.arange(len(rows))], axis=1)
    return _nodes_of(rows, pairs[pairs[:, 0] != pairs[:, 1]])
