"""Spherical k-means on unit vectors: deterministic, in blocks, so that a million clips fit in memory."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
_ROUNDS = 10
TRAINED_ON_PER_CLUSTER = 64
_BLOCK = 8192


def unit(vectors: NDArray[np.floating]) -> Vectors:
    """Rows at length 1; a row of zeros stays."""
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def centroids(vectors: Vectors, count: int) -> Vectors:
    """(K, D) centres of (N, D) unit vectors, K = min(count, N).

    Trained on an even sample of the rows, so the result depends on their order: give them in one of their own
    (sorted by key). Starts far apart (each start is the vector least like the earlier ones), which needs no dice.
    """
    if not len(vectors):
        return vectors[:0]
    count = min(count, len(vectors))
    size = min(len(vectors), count * TRAINED_ON_PER_CLUSTER)
    sample = vectors[np.linspace(0, len(vectors) - 1, size).round().astype(np.int64)]
    centres = _spread(sample, count)
    for _ in range(_ROUNDS):
        nearest = nearest_centroids(sample, centres, 1)[:, 0]
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, sample)
        filled = np.bincount(nearest, minlength=count) > 0
        centres = np.where(filled[:, None], unit(sums), centres)
    return centres


def nearest_centroids(vectors: Vectors, centres: Vectors, count: int) -> NDArray[np.int64]:
    """(N, min(count, K)) indices of the nearest centres by cosine, nearest first."""
    count = min(count, len(centres))
    found = np.empty((len(vectors), count), np.int64)
    for rows in blocks(len(vectors)):
        found[rows] = np.argsort(-(vectors[rows] @ centres.T), axis=1, kind="stable")[:, :count]
    return found


def blocks(count: int, size: int = _BLOCK) -> Iterator[slice]:
    """Slices that cover range(count)."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _spread(sample: Vectors, count: int) -> Vectors:
    chosen = [0]
    likeness = sample @ sample[0]
    for _ in range(count - 1):
        chosen.append(int(likeness.argmin()))
        likeness = np.maximum(likeness, sample @ sample[chosen[-1]])
    return sample[chosen].copy()
