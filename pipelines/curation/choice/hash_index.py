"""Which clips share frames: candidate search over millions of 64-bit hashes, and the alignment of two sequences.

Hashes are cut into bands; two hashes within r bits agree on a whole band if there are more than r bands
(pigeonhole), so equal bands are the only pairs looked at.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
_PAIR_BUDGET = 3e8  # hash pairs expected to be compared; fewer, wider bands above it
_NEIGHBOURS = 20  # bits by which consecutive frames of one shot differ at most; unrelated frames differ in 32
_GROUP = 2048  # clips compared with each clip that shares a band: bounds the work on title cards and spam
_CHUNK = 1 << 22
_PLAIN = np.uint64(0)  # the hash of a picture without structure: it says nothing about who made it


def aligned_share(a: Hashes, b: Hashes, bits: int) -> float:
    """The best share of the shorter sequence's frames that agree within `bits`, over all shifts in time.

    Two clips of one film are seldom sampled at the same moments, so a frame may also lie between two neighbours of
    the other sequence that belong together: then only the bits in which both differ from it count. A sub-clip
    scores 1.0 against the clip it was taken from. Plain frames (hash 0) never agree.
    """
    if not len(a) or not len(b):
        return 0.0
    same = np.bitwise_count(a[:, None] ^ b[None, :]) <= bits
    agreeing = max(
        _longest_diagonal(same | _between(a, b, bits), a, b), _longest_diagonal(same | _between(b, a, bits).T, a, b)
    )
    return agreeing / min(len(a), len(b))


def candidate_pairs(sequences: Sequence[Hashes], first_query: int, bits: int) -> NDArray[np.int64]:
    """(P, 2) pairs (later, earlier), later >= first_query, of sequences with a pair of frames within `bits`.

    Sorted. Every such pair is found while the number of hashes allows `bits + 1` bands (about 100,000 distinct
    hashes at 6 bits); beyond that bands get wider and a pair may be missed whose *every* agreeing frame differs in
    every band. A clip is compared with the `_GROUP` best-ranked of those that share a band: enough to find what a
    much repeated clip repeats.
    """
    owners, hashes = distinct_hashes(sequences)
    bands = band_count(len(hashes), bits)
    found = [np.empty(0, np.int64)]
    for band in range(bands):
        found.append(np.unique(equal_in_band(hashes, owners, band_values(hashes, band, bands), first_query, bits)))
    codes = np.unique(np.concatenate(found))
    return np.stack([codes >> 32, codes & 0xFFFFFFFF], axis=1)


def _between(a: Hashes, b: Hashes, bits: int) -> NDArray[np.bool_]:
    """(A, B): whether frame i of `a` lies between frames j and j + 1 of `b`."""
    between = np.zeros((len(a), len(b)), bool)
    missed = (a[:, None] ^ b[None, :-1]) & (a[:, None] ^ b[None, 1:])
    between[:, :-1] = (np.bitwise_count(missed) <= bits) & (np.bitwise_count(b[:-1] ^ b[1:]) <= _NEIGHBOURS)
    return between


def _longest_diagonal(same: NDArray[np.bool_], a: Hashes, b: Hashes) -> int:
    """Agreeing frames at the best shift."""
    rows, columns = np.nonzero(same & (a != _PLAIN)[:, None] & (b != _PLAIN)[None, :])
    return int(np.bincount(rows - columns + len(b) - 1).max()) if len(rows) else 0


def distinct_hashes(sequences: Sequence[Hashes]) -> tuple[NDArray[np.int64], Hashes]:
    """Owner and value of every hash, once per owner, in order of owner, without plain ones."""
    owners = np.repeat(np.arange(len(sequences)), [len(s) for s in sequences])
    hashes = np.concatenate([*sequences, np.empty(0, np.uint64)]).astype(np.uint64)
    order = np.lexsort((hashes, owners))
    owners, hashes = owners[order], hashes[order]
    new = np.ones(len(hashes), bool)
    new[1:] = (owners[1:] != owners[:-1]) | (hashes[1:] != hashes[:-1])
    new &= hashes != _PLAIN
    return owners[new], hashes[new]


def band_count(count: int, bits: int) -> int:
    """As many bands as the budget allows; with bits + 1 no pair is missed."""
    for bands in range(bits + 1, 2, -1):
        if count * count / 2 * bands / 2 ** (64 // bands) <= _PAIR_BUDGET:
            return bands
    return min(3, bits + 1)


def band_values(hashes: Hashes, band: int, bands: int) -> Hashes:
    """Every `bands`-th bit: neighbouring bits are neighbouring frequencies and go together, so a band mixes them."""
    values = np.zeros_like(hashes)
    for place, bit in enumerate(range(band, 64, bands)):
        values |= ((hashes >> np.uint64(bit)) & np.uint64(1)) << np.uint64(place)
    return values


def equal_in_band(
    hashes: Hashes, owners: NDArray[np.int64], values: Hashes, first_query: int, bits: int
) -> NDArray[np.int64]:
    """`later << 32 | earlier` for each pair of hashes with equal band values and within `bits`; may repeat."""
    order = np.argsort(values, kind="stable")  # stable: within a group the owners stay in order
    ordered, owner, value = values[order], owners[order], hashes[order]
    group_start = np.searchsorted(ordered, ordered, side="left")
    queries = np.flatnonzero(owner >= first_query)
    counts = np.minimum(queries - group_start[queries], _GROUP)  # the first of the group rank best
    ends = np.cumsum(counts)
    found = []
    start = 0
    while start < len(queries):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _CHUNK, side="right")))
        later = np.repeat(queries[start:stop], counts[start:stop])
        within = np.arange(len(later)) - np.repeat(ends[start:stop] - counts[start:stop] - done, counts[start:stop])
        earlier = np.repeat(group_start[queries[start:stop]], counts[start:stop]) + within
        near = np.bitwise_count(value[later] ^ value[earlier]) <= bits
        near &= owner[later] != owner[earlier]
        found.append(np.unique((owner[later[near]] << 32) | owner[earlier[near]]))
        start = stop
    return np.concatenate([*found, np.empty(0, np.int64)])
