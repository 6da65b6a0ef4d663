"""Duplicates among clips in slices, by steps in tasks: the answers of `find_duplicates` on all of them together.

    traits of a slice -> who meets whom: equal contents, equal bands of hashes, the same cell of meaning
    meetings          -> pairs that may match, and which clips they are of
    these clips alone -> `descend`, in order of rank, in one task for each kind

Clips that meet nobody are no duplicates and are not looked at again: what the last step holds is a small part of all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.curation.choice.clusters import unit
from pipelines.curation.choice.dedup import DedupTable, descend, near_pairs
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
    vectors_of,
)
from pipelines.dataset.exchange import Facts, Steps, read, receive, send, write
from pipelines.dataset.tables import concat
from skyreels.storage import Storage

_PAIRS = pa.schema({"kind": pa.string(), "later": pa.string(), "earlier": pa.string(), "likeness": pa.float32()})
_INVOLVED = pa.schema({"key": pa.string()})
_FOUND = pa.schema({"key": pa.string(), "of_key": pa.string(), "method": pa.string(), "similarity": pa.float64()})
_CELL = 1 << 17  # clips of one kind that are compared by meaning in one task; of more, only neighbours are


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
    steps.run("frames", _Frames(matching), matching.slices)
    steps.run("meaning", _Meaning(matching), max(1, sum(cells.values())))
    steps.run("involved", _Involved(matching, max(1, sum(cells.values()))), matching.slices)
    steps.run("descend", _Descend(matching, max(1, sum(cells.values()))), len(KINDS))
    steps.run("duplicates", _Received(matching), matching.slices)
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
    """Pairs with frames alike among what met by bands, and clips that share their content with another."""

    matching: Matching

    def __call__(self, index: int) -> Facts:
        store, slices, name = self.matching.store, self.matching.slices, f"{index:06d}"
        keys, owners = [], []
        if self.matching.config.exact:
            rows = receive(store, "meet/contents", slices, index)
            _, group, sizes = np.unique(rows["content"].to_numpy(), return_inverse=True, return_counts=True)
            shared = rows.filter(pa.array(sizes[group] > 1)) if len(rows) else rows
            keys.append(shared["key"].combine_chunks())
            owners.append(shared["slice"].to_numpy())
        pairs = _PAIRS.empty_table()
        if self.matching.config.perceptual_bits is not None:
            rows = _by_rank(receive(store, "meet/bands", slices, index))
            pairs = _pairs_of(rows, self._pairs(rows))
            involved = _both(rows, pairs)
            keys.append(involved["key"].combine_chunks())
            owners.append(involved["slice"].to_numpy())
        write(store, f"frames/{name}", pairs)
        _send_involved(store, f"frames/of/{name}", keys, owners)
        return {"pairs": len(pairs)}

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
        store, name = self.matching.store, f"{index:06d}"
        pairs, involved = _PAIRS.empty_table(), _INVOLVED.empty_table()
        owners = np.empty(0, np.int64)
        if self.matching.config.semantic_cosine is not None:
            rows = _by_rank(receive(store, "meet/vectors", self.matching.slices, index))
            found, likeness = self._pairs(rows, self.matching.config.semantic_cosine)
            pairs = _pairs_of(rows, found, likeness)
            both = _both(rows, pairs)
            involved, owners = both.select(["key"]), both["slice"].to_numpy()
        write(store, f"meaning/{name}", pairs)
        _send_involved(store, f"meaning/of/{name}", [involved["key"].combine_chunks()], [owners])
        return {"pairs": len(pairs)}

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
    """The traits of those clips of a slice that are in a pair, without what only the pairs needed."""

    matching: Matching
    cells: int

    def __call__(self, index: int) -> Facts:
        store = self.matching.store
        said = [
            receive(store, "frames/of", self.matching.slices, index),
            receive(store, "meaning/of", self.cells, index),
        ]
        keys = pc.unique(concat(said)["key"])
        table = self.matching.traits_of(index, [name for name in TRAITS.names if name != "embedding"])
        left = table.filter(pc.is_in(table["key"], keys))
        left = left.append_column("slice", pa.array(np.full(len(left), index, np.int32)))
        kinds = np.array([KINDS.index(kind) for kind in left["kind"].to_pylist()], np.int64)
        send(store, f"involved/{index:06d}", left, kinds)
        return {"rows": len(left)}


@dataclass(frozen=True)
class _Descend:
    """Decides, going down the ranks, of all clips of a kind that are in a pair."""

    matching: Matching
    cells: int

    def __call__(self, index: int) -> Facts:
        store, slices, kind = self.matching.store, self.matching.slices, KINDS[index]
        rows = _by_rank(receive(store, "involved", slices, index))
        place = {key: i for i, key in enumerate(rows["key"].to_pylist())}
        frames, _ = self._placed(concat([read(store, f"frames/{i:06d}") for i in range(slices)]), kind, place)
        near, cosines = self._placed(concat([read(store, f"meaning/{i:06d}") for i in range(self.cells)]), kind, place)
        likeness = dict(zip(map(tuple, near.tolist()), cosines.tolist(), strict=True))
        first_new = int(np.count_nonzero(~rows["new"].to_numpy(zero_copy_only=False)))
        ranked = DedupTable(list(place), rows["content"].to_pylist(), rows["quality"].to_numpy(), hashes_of(rows))
        near = np.unique(near, axis=0)
        found = descend(ranked, first_new, np.unique(frames, axis=0), near, lambda i, j: likeness[i, j],
                        self.matching.config)  # fmt: skip
        source, owner = rows["source_id"].to_pylist(), rows["slice"].to_numpy()
        counted = [
            one for one in found
            if one.method == "exact" or self.matching.config.within_source
            or source[place[one.key]] != source[place[one.of_key]]
        ]  # fmt: skip
        columns: list[Any] = list(zip(*counted, strict=True)) or [[]] * len(_FOUND)
        table = pa.table([pa.array(c, t) for c, t in zip(columns, _FOUND.types, strict=True)], schema=_FOUND)
        send(store, f"descend/{index:06d}", table, owner[[place[one.key] for one in counted]].astype(np.int64))
        return {"involved": len(rows), "duplicates": len(counted)}

    @staticmethod
    def _placed(pairs: pa.Table, kind: str, place: dict[str, int]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        mine = pairs.filter(pc.equal(pairs["kind"], kind))
        rows = [[place[key] for key in mine[name].to_pylist()] for name in ("later", "earlier")]
        return np.array(rows, np.int64).T.reshape(-1, 2), mine["likeness"].to_numpy()


@dataclass(frozen=True)
class _Received:
    """The duplicates of one slice, in order of key."""

    matching: Matching

    def __call__(self, index: int) -> Facts:
        found = receive(self.matching.store, "descend", len(KINDS), index).sort_by("key")
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


def _both(rows: pa.Table, pairs: pa.Table) -> pa.Table:
    """Key and slice of every clip that is in a pair, once."""
    keys = pc.unique(pa.chunked_array([*pairs["later"].chunks, *pairs["earlier"].chunks], pa.string()))
    found = rows.filter(pc.is_in(rows["key"], keys)).select(["key", "slice"])
    return found.group_by(["key", "slice"]).aggregate([])


def _send_involved(store: Storage, name: str, keys: list[pa.Array], owners: list[NDArray[Any]]) -> None:
    table = pa.table([pa.chunked_array(keys, pa.string())], schema=_INVOLVED)
    send(store, name, table, np.concatenate([np.empty(0, np.int64), *owners]).astype(np.int64))
