"""Balance: concepts x motion patterns. Crowded cells are thinned, rare ones stay whole.

Within a cell clips stay in order of a hash of their key: an even sample, the same on every machine, and one that
new clips do not reshuffle.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.curation.choice.clusters import centroids, nearest_centroids, unit
from pipelines.curation.recipe import BalanceConfig

_SLOW, _FAST = 0.02, 0.12  # diagonals per second


class Cell(NamedTuple):
    concept: str
    motion: str

    def __str__(self) -> str:
        return f"{self.concept} x {self.motion}"


class Dropped(NamedTuple):
    key: str
    cell: Cell
    reason: str


@dataclass(frozen=True)
class Balance:
    """`kept` and `dropped` in order of key; `cells`: clips before and after, per cell."""

    kept: list[str]
    dropped: list[Dropped]
    cells: dict[Cell, tuple[int, int]]


def balance(cells: Mapping[str, Cell], config: BalanceConfig, kept_before: Collection[str] = frozenset()) -> Balance:
    """Thin the cells of clips (by key) to their quotas.

    Clips in `kept_before` come first within their cell, so a cell gives up what was delivered only when its quota
    itself falls below that.
    """
    sizes = Counter(cells.values())
    quotas = quota(sizes, config)
    before = frozenset(kept_before)
    kept, dropped, filled = [], [], Counter[Cell]()
    for key in sorted(cells, key=lambda key: (key not in before, place_of(key), key)):
        cell = cells[key]
        if filled[cell] < quotas[cell]:
            filled[cell] += 1
            kept.append(key)
        else:
            dropped.append(Dropped(key, cell, told(cell, sizes[cell], quotas[cell])))
    return Balance(sorted(kept), sorted(dropped), {cell: (sizes[cell], filled[cell]) for cell in sorted(sizes)})


def told(cell: Cell, size: int, may_keep: int) -> str:
    return f"{cell} holds {size} clips and may keep {may_keep}"


def quota(sizes: Mapping[Cell, int], config: BalanceConfig) -> dict[Cell, int]:
    """How many clips each cell may keep.

    A cell of n clips above the median size m keeps m (n / m)^(1 - temper), the tempering of multilingual sampling
    (Conneau et al. 2020) with the typical cell held fixed; `max_per_cell` caps all.
    """
    if not sizes:
        return {}
    middle = float(np.median(list(sizes.values())))
    cap = config.max_per_cell or math.inf

    def keeps(n: int) -> int:
        tempered = n if n <= middle else math.ceil(middle * (n / middle) ** (1 - config.temper) - 1e-9)
        return int(min(n, tempered, cap))

    return {cell: keeps(n) for cell, n in sizes.items()}


def concept_labels(keys: Sequence[str], embeddings: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """(N,) cluster of each (N, D) embedding, at most `count`; the same whatever the order of rows.

    Numbers mean nothing between runs over different clips.
    """
    if not len(keys):
        return np.empty(0, np.int64)
    order = np.argsort(np.asarray(keys), kind="stable")
    vectors = unit(embeddings)
    return nearest_centroids(vectors, centroids(vectors[order], count), 1)[:, 0]


def motion_pattern(camera: str | None, object_motion: float | None) -> str:
    """What the camera does and how much moves by itself: "pan, slow". Speed in diagonals per second; still: no motion.

    Directions of one movement (pan_left, pan_right) are one pattern.
    """
    if camera is None or object_motion is None:
        return "still"
    pace = "calm" if object_motion < _SLOW else "slow" if object_motion < _FAST else "fast"
    return f"{camera.split('_')[0]}, {pace}"


def place_of(key: str) -> bytes:
    """Where a clip stands in its cell: the same on every machine, and even over all keys."""
    return hashlib.blake2b(key.encode(), digest_size=8).digest()
