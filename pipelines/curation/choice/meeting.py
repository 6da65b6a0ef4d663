"""Where clips of slices may meet their like: equal contents, equal bands of hashes, the same cell of meaning."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.curation.choice.clusters import Vectors, centroids, nearest_centroids, unit
from pipelines.curation.choice.hash_index import band_values, distinct_hashes
from pipelines.curation.recipe import DedupConfig
from pipelines.curation.records import Kind
from pipelines.dataset.exchange import Facts, read, send, write
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

KINDS = [kind.value for kind in Kind]
SAMPLE = 1 << 14  # clips that the cells of all of them are found from
_WHO = ("key", "slice", "kind", "new", "quality")
_TRAINED_ON = 64  # of these, for each cell
_ASKED = 2  # cells that a clip is compared with


@dataclass(frozen=True)
class Matching:
    """The steps; `slices` of `<traits>/000000.parquet` and so on (`TRAITS`) lie in the store, named by their step."""

    store: Storage
    traits: str
    slices: int
    config: DedupConfig

    def traits_of(self, index: int, columns: Sequence[str] | None = None) -> pa.Table:
        return read(self.store, f"{self.traits}/{index:06d}", columns)


@dataclass(frozen=True)
class SampleEmbeddings:
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
class FindCentres:
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
class Meet:
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
            owners, hashes = distinct_hashes(hashes_of(rows))
            who = rows.select(_WHO).take(pa.array(owners)).append_column("hash", pa.array(hashes))
            for band in range(bands):
                met = spread(band_values(hashes, band, bands), band + 64 * place)
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


def vectors_of(rows: pa.Table, column: str = "embedding") -> Vectors:
    """(N, D) float32 of a column of lists without nulls."""
    flat = pc.list_flatten(rows[column]).to_numpy()
    return flat.reshape(len(rows), -1) if len(rows) else np.empty((0, 0), np.float32)


def hashes_of(rows: pa.Table) -> list[NDArray[np.uint64]]:
    filled = pc.coalesce(rows["hashes"], pa.scalar([], pa.list_(pa.uint64())))
    flat, lengths = pc.list_flatten(filled).to_numpy(), pc.list_value_length(filled).to_numpy()
    ends = np.cumsum(lengths)
    return [flat[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def spread(values: NDArray[np.uint64], salt: int) -> NDArray[np.uint64]:
    """Values of different bands and kinds apart, and spread evenly (splitmix64)."""
    z = values + np.uint64(0x9E3779B97F4A7C15 * (salt + 1) % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
