"""Duplicates among clips in slices, by steps in tasks: the answers of `find_duplicates` on all of them together.

    traits of a slice -> who meets whom: equal contents, equal bands of hashes, the same cell of meaning
    meetings          -> pairs that may match, and which clips they are of
    these clips alone -> `descend`, in order of rank, in one task for each kind

Clips that meet nobody are no duplicates and are not looked at again: what the last step holds is a small part of all.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.curation.choice.clusters import Vectors, centroids, nearest_centroids, unit
from pipelines.curation.choice.dedup import DedupTable, descend, near_pairs
from pipelines.curation.choice.hash_index import band_count, band_values, distinct_hashes, equal_in_band
from pipelines.curation.recipe import DedupConfig
from pipelines.curation.records import Kind
from pipelines.dataset.exchange import Facts, Steps, read, receive, send, write
from pipelines.dataset.tables import concat
from skyreels.storage import Storage

TRAITS = pa.schema(
    {
        "key": pa.string(),
        "kind": pa.string(),
        "source_id": pa.string(),  # null for a clip of another dataset
        "content": pa.string(),
        "new": pa.bool_(),  # no earlier run delivered it
        "quality": pa.float64(),
        "hashes": pa.list_(pa.uint64()),
        "embedding": pa.list_(pa.float32()),  # null where there is none
        "sound": pa.string(),  # its class
        "motion": pa.string(),
    }
)
"""What matching looks at of a clip. Slices hold ranges of keys, in order."""

_WHO = ("key", "slice", "kind", "new", "quality")
_PAIRS = pa.schema({"kind": pa.string(), "later": pa.string(), "earlier": pa.string(), "likeness": pa.float32()})
_INVOLVED = pa.schema({"key": pa.string()})
_FOUND = pa.schema({"key": pa.string(), "of_key": pa.string(), "method": pa.string(), "similarity": pa.float64()})
_CELL = 1 << 17  # clips of one kind that are compared by meaning in one task; of more, only neighbours are
_SAMPLE = 1 << 14  # clips that the cells of all of them are found from
_TRAINED_ON = 64  # of these, for each cell
_ASKED = 2  # cells that a clip is compared with
_KINDS = [kind.value for kind in Kind]


@dataclass(frozen=True)
class Matching:
    """The steps; `slices` of `<traits>/000000.parquet` and so on (`TRAITS`) lie in the store, named by their step."""

    store: Storage
    traits: str
    slices: int
    config: DedupConfig

    def traits_of(self, index: int, columns: Sequence[str] | None = None) -> pa.Table:
        return read(self.store, f"{self.traits}/{index:06d}", columns)


def find_in_slices(steps: Steps, matching: Matching) -> str:
    """The step whose slices hold the duplicates of each slice: key, of_key, method, similarity."""
    facts = steps.run("count", _Count(matching), matching.slices)
    widths = sorted({width for fact in facts for width in fact["widths"]})
    if len(widths) > 1:
        raise ValueError(f"embeddings of {widths} numbers cannot be compared: embed all clips with one backend")
    cells = _cells(steps, matching, facts)
    bands = {kind: band_count(sum(f["hashes"][kind] for f in facts), matching.config.perceptual_bits or 0)
             for kind in _KINDS}  # fmt: skip
    steps.run("meet", _Meet(matching, bands, cells), matching.slices)
    steps.run("frames", _Frames(matching), matching.slices)
    steps.run("meaning", _Meaning(matching), max(1, sum(cells.values())))
    steps.run("involved", _Involved(matching, max(1, sum(cells.values()))), matching.slices)
    steps.run("descend", _Descend(matching, max(1, sum(cells.values()))), len(_KINDS))
    steps.run("duplicates", _Received(matching), matching.slices)
    return "duplicates"


def _cells(steps: Steps, matching: Matching, facts: Sequence[Facts]) -> dict[str, int]:
    """How many cells of meaning each kind has; where it is more than one, their centres are written down."""
    if matching.config.semantic_cosine is None:
        return dict.fromkeys(_KINDS, 0)
    known = {kind: sum(fact["known"][kind] for fact in facts) for kind in _KINDS}
    cells = {kind: -(-count // _CELL) for kind, count in known.items()}
    many = {kind: _SAMPLE / known[kind] for kind, count in cells.items() if count > 1}
    if many:
        steps.run("sampled", _Sampled(matching, many), matching.slices)
        steps.run("centres", _Centres(matching, cells), 1)
    return cells


@dataclass(frozen=True)
class _Count:
    """How many clips there are to match, by kind."""

    matching: Matching

    def __call__(self, index: int) -> Facts:
        table = self.matching.traits_of(index, ["kind", "hashes", "embedding"])
        by_kind = {kind: table.filter(pc.equal(table["kind"], kind)) for kind in _KINDS}
        hashes = {kind: len(distinct_hashes(_hashes(rows))[0]) for kind, rows in by_kind.items()}
        lengths = pc.list_value_length(table["embedding"])
        return {
            "hashes": hashes,
            "known": {kind: len(rows) - rows["embedding"].null_count for kind, rows in by_kind.items()},
            "widths": [width for width in pc.unique(lengths).to_pylist() if width],
        }


@dataclass(frozen=True)
class _Sampled:
    """An even share of the embeddings of a slice."""

    matching: Matching
    share: dict[str, float]

    def __call__(self, index: int) -> Facts:
        table = self.matching.traits_of(index, ["kind", "key", "embedding"])
        found = []
        for kind, share in self.share.items():
            rows = table.filter(pc.and_(pc.equal(table["kind"], kind), pc.is_valid(table["embedding"])))
            size = min(len(rows), max(1, round(len(rows) * share)))
            found.append(rows.take(pa.array(np.linspace(0, max(0, len(rows) - 1), size).round().astype(np.int64))))
        write(self.matching.store, f"sampled/{index:06d}", concat(found))
        return {"rows": sum(map(len, found))}


@dataclass(frozen=True)
class _Centres:
    """The centres of the cells of each kind that has more than one."""

    matching: Matching
    cells: dict[str, int]

    def __call__(self, index: int) -> Facts:
        store = self.matching.store
        sample = concat([read(store, f"sampled/{index:06d}") for index in range(self.matching.slices)])
        kinds, found = [], []
        for kind, count in self.cells.items():
            if count > 1:
                rows = sample.filter(pc.equal(sample["kind"], kind))
                even = np.linspace(0, len(rows) - 1, min(len(rows), count * _TRAINED_ON)).round().astype(np.int64)
                centres = centroids(unit(vectors_of(rows.take(pa.array(even)))), count)
                kinds += [kind] * len(centres)
                found += centres.tolist()
        table = pa.table({"kind": kinds, "centre": pa.array(found, pa.list_(pa.float32()))})
        write(store, "centres/000000", table)
        return {"rows": len(table)}


@dataclass(frozen=True)
class _Meet:
    """Sends the traits of a slice where they may meet their like."""

    matching: Matching
    bands: dict[str, int]
    cells: dict[str, int]

    def __call__(self, index: int) -> Facts:
        table = self.matching.traits_of(index)
        table = table.append_column("slice", pa.array(np.full(len(table), index, np.int32)))
        name = f"{index:06d}"
        if self.matching.config.exact:
            self._send_contents(table, name)
        if self.matching.config.perceptual_bits is not None:
            self._send_bands(table, name)
        if self.matching.config.semantic_cosine is not None:
            self._send_vectors(table, name)
        return {"rows": len(table)}

    def _send_contents(self, table: pa.Table, name: str) -> None:
        rows = table.filter(pc.not_equal(table["content"], "")).select(["key", "slice", "kind", "content"])
        named = zip(rows["kind"].to_pylist(), rows["content"].to_pylist(), strict=True)
        digests = [hashlib.blake2b(f"{kind}:{what}".encode(), digest_size=8).digest() for kind, what in named]
        content = np.frombuffer(b"".join(digests), np.uint64)
        rows = rows.select(["key", "slice"]).append_column("content", pa.array(content))
        self._send("meet/contents", name, rows, content)

    def _send_bands(self, table: pa.Table, name: str) -> None:
        found = []
        for place, (kind, bands) in enumerate(self.bands.items()):
            rows = table.filter(pc.equal(table["kind"], kind))
            owners, hashes = distinct_hashes(_hashes(rows))
            who = rows.select(_WHO).take(pa.array(owners)).append_column("hash", pa.array(hashes))
            for band in range(bands):
                met = _mixed(band_values(hashes, band, bands), band + 64 * place)
                found.append(who.append_column("met", pa.array(met)))
        rows = concat(found)
        self._send("meet/bands", name, rows, rows["met"].to_numpy())

    def _send_vectors(self, table: pa.Table, name: str) -> None:
        """To the nearest cell as a member, to the next as one who asks."""
        found, receivers, first = [], [], 0
        for kind, cells in self.cells.items():
            rows = table.filter(pc.and_(pc.equal(table["kind"], kind), pc.is_valid(table["embedding"])))
            rows = rows.select([*_WHO, "embedding"])
            near = self._nearest(kind, rows) if cells > 1 else np.zeros((len(rows), 1), np.int64)
            for place in range(near.shape[1]):
                found.append(rows.append_column("member", pa.array(np.full(len(rows), place == 0))))
                receivers.append(near[:, place] + first)
            first += cells
        send(self.matching.store, f"meet/vectors/{name}", concat(found), np.concatenate(receivers))

    def _nearest(self, kind: str, rows: pa.Table) -> NDArray[np.int64]:
        centres = read(self.matching.store, "centres/000000")
        mine = centres.filter(pc.equal(centres["kind"], kind))
        return nearest_centroids(unit(vectors_of(rows)), vectors_of(mine, "centre"), _ASKED)

    def _send(self, step: str, name: str, rows: pa.Table, values: NDArray[np.uint64]) -> None:
        send(self.matching.store, f"{step}/{name}", rows, (values % np.uint64(self.matching.slices)).astype(np.int64))


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
        kinds = np.array([_KINDS.index(kind) for kind in left["kind"].to_pylist()], np.int64)
        send(store, f"involved/{index:06d}", left, kinds)
        return {"rows": len(left)}


@dataclass(frozen=True)
class _Descend:
    """Decides, going down the ranks, of all clips of a kind that are in a pair."""

    matching: Matching
    cells: int

    def __call__(self, index: int) -> Facts:
        store, slices, kind = self.matching.store, self.matching.slices, _KINDS[index]
        rows = _by_rank(receive(store, "involved", slices, index))
        place = {key: i for i, key in enumerate(rows["key"].to_pylist())}
        frames, _ = self._placed(concat([read(store, f"frames/{i:06d}") for i in range(slices)]), kind, place)
        near, cosines = self._placed(concat([read(store, f"meaning/{i:06d}") for i in range(self.cells)]), kind, place)
        likeness = dict(zip(map(tuple, near.tolist()), cosines.tolist(), strict=True))
        first_new = int(np.count_nonzero(~rows["new"].to_numpy(zero_copy_only=False)))
        ranked = DedupTable(list(place), rows["content"].to_pylist(), rows["quality"].to_numpy(), _hashes(rows))
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
        found = receive(self.matching.store, "descend", len(_KINDS), index).sort_by("key")
        write(self.matching.store, f"duplicates/{index:06d}", found)
        return {"duplicates": len(found)}


def vectors_of(rows: pa.Table, column: str = "embedding") -> Vectors:
    """(N, D) float32 of a column of lists without nulls."""
    flat = pc.list_flatten(rows[column]).to_numpy()
    return flat.reshape(len(rows), -1) if len(rows) else np.empty((0, 0), np.float32)


def _hashes(rows: pa.Table) -> list[NDArray[np.uint64]]:
    filled = pc.coalesce(rows["hashes"], pa.scalar([], pa.list_(pa.uint64())))
    flat, lengths = pc.list_flatten(filled).to_numpy(), pc.list_value_length(filled).to_numpy()
    ends = np.cumsum(lengths)
    return [flat[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def _by_rank(rows: pa.Table) -> pa.Table:
    """What was kept before by key, then the rest by quality and key."""
    new = rows["new"]
    worse = pc.if_else(new, pc.negate(rows["quality"]), 0.0)
    order = [("new", "ascending"), ("worse", "ascending"), ("key", "ascending")]
    order += [("hash", "ascending")] if "hash" in rows.column_names else []
    ranked = pc.sort_indices(rows.append_column("worse", worse), sort_keys=order)
    return rows.take(ranked)


def _mixed(values: NDArray[np.uint64], salt: int) -> NDArray[np.uint64]:
    """Values of different bands and kinds apart, and spread evenly (splitmix64)."""
    z = values + np.uint64(0x9E3779B97F4A7C15 * (salt + 1) % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


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
