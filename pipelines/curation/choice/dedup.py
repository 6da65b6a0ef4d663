"""Near-duplicates of three kinds: the same bytes, the same frames, the same meaning. Incremental and order-free.

Clips are ranked: what an earlier run committed comes first, then higher quality, then the smaller key. Going down
the ranks, a clip that matches one already retained is a duplicate of it, so whatever `of_key` names stays, nothing
is chained away, and a clip of an earlier run is never taken back.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.curation.choice.clusters import Vectors, blocks, centroids, nearest_centroids, unit
from pipelines.curation.choice.hash_index import Hashes, aligned_share, candidate_pairs
from pipelines.curation.recipe import DedupConfig

Method = Literal["exact", "perceptual", "semantic"]
_ALL_PAIRS = 8192  # clips below which every pair is compared by meaning
_PER_CLUSTER = 512
_PROBES = 4  # clusters that a clip is compared with
_MATCHES = 256  # best-ranked matches by meaning that are kept per clip and cluster


@dataclass(frozen=True)
class DedupTable:
    """What is compared of N clips. Give clips of one kind (video, image, sound) at a time.

    `content` names a clip's exact content (a digest; of a cut clip, its source's digest and span), "" if unknown.
    `hashes` are perceptual hashes at even times; `embeddings` (N, D), a row of zeros or None where there is none.
    """

    keys: Sequence[str]
    content: Sequence[str]
    quality: NDArray[np.float64]
    hashes: Sequence[Hashes]
    embeddings: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        sizes = {len(self.keys), len(self.content), len(self.quality), len(self.hashes)}
        if self.embeddings is not None:
            sizes.add(len(self.embeddings))
        if len(sizes) != 1:
            raise ValueError(f"the columns of a DedupTable have {sorted(sizes)} rows: give each clip one entry in each")


class Duplicate(NamedTuple):
    """`similarity`: 1 for exact, the share of aligned frames for perceptual, the cosine for semantic."""

    key: str
    of_key: str
    method: Method
    similarity: float


_Match = tuple[int, Method, float]


def find_duplicates(new: DedupTable, kept: DedupTable | None, config: DedupConfig) -> list[Duplicate]:
    """The clips of `new` that repeat one of `kept` or a better one of `new`, in order of key.

    Of several matches the method counts first (exact, perceptual, semantic), then the rank. The answer does not
    depend on the order of rows. Raises ValueError for a key that occurs twice.
    """
    ranked = _rank(new, kept)
    first_new = len(kept.keys) if kept is not None else 0
    frames, meaning = _sharing_frames(ranked, first_new, config), _sharing_meaning(ranked, first_new, config)

    def likeness(i: int, j: int) -> float:
        assert ranked.embeddings is not None
        return float(ranked.embeddings[i] @ ranked.embeddings[j])

    return descend(ranked, first_new, frames, meaning, likeness, config)


def descend(
    ranked: DedupTable,
    first_new: int,
    frames: NDArray[np.int64],
    meaning: NDArray[np.int64],
    likeness: Callable[[int, int], float],
    config: DedupConfig,
) -> list[Duplicate]:
    """The duplicates among clips in order of rank, the first `first_new` of them kept before; in order of key.

    `frames` and `meaning`, (P, 2) pairs (later, earlier) of rows, say who may share frames and who shares meaning;
    `likeness` the cosine of the latter.
    """
    by_frames, by_meaning = _grouped(frames, len(ranked.keys)), _grouped(meaning, len(ranked.keys))
    retained = np.zeros(len(ranked.keys), bool)
    first_with: dict[str, int] = {}
    found = []
    for i, content in enumerate(ranked.content):
        match: _Match | None = None
        if i >= first_new:
            same = first_with.get(content) if config.exact and content else None
            match = (
                (same, "exact", 1.0)
                if same is not None
                else _by_frames(ranked, i, by_frames[i][retained[by_frames[i]]], config)
                or _by_meaning(i, by_meaning[i][retained[by_meaning[i]]], likeness)
            )
        if match is None:
            retained[i] = True
            first_with.setdefault(content, i)
        else:
            found.append(Duplicate(ranked.keys[i], ranked.keys[match[0]], match[1], match[2]))
    return sorted(found)


def near_pairs(
    vectors: Vectors, keys: Sequence[str], first_new: int, cosine: float, members: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """(P, 2) pairs (later, earlier) of unit vectors in order of rank with that cosine or more; a row of zeros has none.

    All pairs of few clips; of many, those within the clusters nearest to the later one. Only `members`, (N,), if given,
    can be the earlier one.
    """
    known = np.linalg.norm(vectors, axis=1) > 0
    held = known if members is None else known & members
    by_key = np.argsort(np.asarray(keys), kind="stable")
    by_key = by_key[held[by_key]]
    centres = centroids(vectors[by_key], 1 if len(by_key) <= _ALL_PAIRS else len(by_key) // _PER_CLUSTER)
    probes = nearest_centroids(vectors, centres, _PROBES)
    found = [np.empty((0, 2), np.int64)]
    for cluster in range(len(centres)):
        inside = np.flatnonzero(held & (probes[:, 0] == cluster))
        asking = np.flatnonzero(known & (probes == cluster).any(axis=1))
        found += _near(vectors, asking[asking >= first_new], inside, cosine)
    return np.concatenate(found)


def _rank(new: DedupTable, kept: DedupTable | None) -> DedupTable:
    """One table in order of rank."""
    tables = [new] if kept is None else [kept, new]
    keys = [key for table in tables for key in table.keys]
    twice, times = Counter(keys).most_common(1)[0] if keys else ("", 1)
    if times > 1:
        raise ValueError(f"clip {twice} occurs twice: give every clip once, in `new` or in `kept`")
    first_new = len(keys) - len(new.keys)
    quality = np.nan_to_num(np.concatenate([table.quality for table in tables]), nan=-np.inf)
    order = sorted(range(len(keys)), key=lambda i: (i >= first_new, -quality[i] if i >= first_new else 0.0, keys[i]))
    return DedupTable(
        keys=[keys[i] for i in order],
        content=_picked(tables, "content", order),
        quality=quality[order],
        hashes=_picked(tables, "hashes", order),
        embeddings=_embeddings(tables, order),
    )


def _picked(tables: Sequence[DedupTable], column: str, order: Sequence[int]) -> list:
    values = [value for table in tables for value in getattr(table, column)]
    return [values[i] for i in order]


def _embeddings(tables: Sequence[DedupTable], order: Sequence[int]) -> Vectors | None:
    widths = {table.embeddings.shape[1] for table in tables if table.embeddings is not None}
    if not widths:
        return None
    if len(widths) > 1:
        raise ValueError(f"embeddings of {sorted(widths)} numbers cannot be compared: embed all clips with one backend")
    width = widths.pop()
    rows = [np.zeros((len(t.keys), width), np.float32) if t.embeddings is None else t.embeddings for t in tables]
    return unit(np.concatenate(rows)[order])


def _sharing_frames(ranked: DedupTable, first_new: int, config: DedupConfig) -> NDArray[np.int64]:
    if config.perceptual_bits is None:
        return np.empty((0, 2), np.int64)
    return candidate_pairs(ranked.hashes, first_new, config.perceptual_bits)


def _sharing_meaning(ranked: DedupTable, first_new: int, config: DedupConfig) -> NDArray[np.int64]:
    """Who is alike by meaning (SemDeDup, Abbas et al. 2023)."""
    if config.semantic_cosine is None or ranked.embeddings is None:
        return np.empty((0, 2), np.int64)
    return near_pairs(ranked.embeddings, ranked.keys, first_new, config.semantic_cosine)


def _near(
    vectors: Vectors, later: NDArray[np.int64], earlier: NDArray[np.int64], cosine: float
) -> list[NDArray[np.int64]]:
    found = []
    for rows in blocks(len(later), 2048):
        near = vectors[later[rows]] @ vectors[earlier].T >= cosine
        near &= later[rows][:, None] > earlier[None, :]
        if near.sum(axis=1).max(initial=0) > _MATCHES:  # thousands alike: the first of them rank best
            near &= near.cumsum(axis=1) <= _MATCHES
        i, j = np.nonzero(near)
        found.append(np.stack([later[rows][i], earlier[j]], axis=1))
    return found


def _grouped(pairs: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
    """For every later clip its earlier ones, best rank first."""
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    edges = np.searchsorted(pairs[order, 0], np.arange(count + 1))
    return [pairs[order[start:end], 1] for start, end in pairwise(edges)]


def _by_frames(ranked: DedupTable, i: int, earlier: NDArray[np.int64], config: DedupConfig) -> _Match | None:
    for j in earlier:
        share = aligned_share(ranked.hashes[i], ranked.hashes[j], config.perceptual_bits or 0)
        if share >= config.perceptual_share:
            return int(j), "perceptual", share
    return None


def _by_meaning(i: int, earlier: NDArray[np.int64], likeness: Callable[[int, int], float]) -> _Match | None:
    return (int(earlier[0]), "semantic", likeness(i, int(earlier[0]))) if len(earlier) else None
