"""What curating so many pictures and clips takes: hours, memory, traffic and storage, from measured figures.

Every figure says what measured it, and up to how many rows: what is asked for beyond that is extrapolated, and marked.
Figures are of CPU cores without a GPU; models that look, listen or caption are not in them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.curation.choice.sliced import DECIDED_AT_ONCE

_MOST_SLICES = 2048
_GIB = 2**30


@dataclass(frozen=True)
class Measured:
    """A cost per unit, where it was seen, and up to how many units."""

    value: float
    by: str
    up_to: float = math.inf


PICTURE_CPU_S = Measured(
    0.012, "benchmarks/scale_pictures.py, 640x480, with every score, hash, descriptor and the cut", 512
)
CLIP_CPU_S = Measured(3.7, "benchmarks/curation.py, clips of 5 to 10 s at 720p", 9)
ROW_CPU_S = Measured(390e-6, "benchmarks/scale_rows.py, choosing, packing and accounting", 1e7)
ROW_WORK_BYTES = Measured(1_560, "the same: all that is written after the cut, small pictures packed", 1e7)
DRIVER_BYTES = Measured(718e6, "the same: driver and one task together", 1e7)
SLICE_BYTES = Measured(440_000, "the same: what 306 slices grew to, over 4", 306)
LISTED_BYTES = Measured(
    3_300, "benchmarks/scale_rows.py: a name while it is planned; 65,536 are held at a time", 65_536
)
PART_BYTES = Measured(500, "an estimate, not measured: the description of a source in Ray's object store", 12_000)
PICTURE_BYTES = Measured(60_000, "assumed: a picture of 640x480 at quality 92")
CLIP_BYTES = Measured(2.6e6, "assumed: 5 s at 720p, CRF 20, with FLAC and four frames")
POOL_ROW_BYTES = Measured(400, "assumed: a row of the pool's tables, compressed")
MATCHED_S = Measured(
    35e-6, "a clip that may repeat another: 15 us to find its group, of 9e5 in threes, and 20 us down the ranks", 1e5
)
TASK_ROW_BYTES = Measured(
    9_000, "benchmarks/scale_rows.py: a row as Python objects, with all that is made of it", 32_768
)
_INVOLVED = 0.3  # of clips may repeat another: assumed, twice what the benchmark plants


@dataclass(frozen=True)
class Line:
    """One line of the estimate; `extrapolated` empty, or from how many to how many."""

    what: str
    value: str
    made_of: str
    extrapolated: str = ""


@dataclass(frozen=True)
class Curating:
    """What is to be curated, and on how many cores."""

    images: float
    clips: float
    cores: int
    listed: float = 65_536  # names that are held at a time

    def __post_init__(self) -> None:
        for name in ("images", "clips", "cores", "listed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"--{name} is {getattr(self, name)}: give a number that is not negative")
        if not self.cores:
            raise ValueError("--cores is 0: nothing can be done on none")

    @property
    def rows(self) -> float:
        return self.images + self.clips


def estimate(asked: Curating) -> list[Line]:
    """In the order in which things happen."""
    return [*_time(asked), *_driver(asked), *_traffic(asked), *_stored(asked)]


def _time(asked: Curating) -> Iterator[Line]:
    cut = asked.images * PICTURE_CPU_S.value / asked.cores
    yield _line("pictures measured and cut", _hours(cut), PICTURE_CPU_S, asked.images)
    films = asked.clips * CLIP_CPU_S.value / asked.cores
    yield _line("clips measured and cut", _hours(films), CLIP_CPU_S, asked.clips)
    rows = asked.rows * ROW_CPU_S.value / min(asked.cores, _slices(asked))
    yield _line("chosen, packed, accounted for", _hours(rows), ROW_CPU_S, asked.rows)
    involved = asked.rows * _INVOLVED
    matched = involved * MATCHED_S.value / min(asked.cores, max(1, math.ceil(involved / DECIDED_AT_ONCE)))
    yield _line("duplicates, no group too large", _hours(matched), MATCHED_S, involved)
    yield Line("in all", _hours(cut + films + rows + matched), "every core busy, no wait for storage")


def _driver(asked: Curating) -> Iterator[Line]:
    slices = _slices(asked)
    size = DRIVER_BYTES.value + slices * SLICE_BYTES.value + asked.listed * LISTED_BYTES.value
    yield _line("memory of the driver", _size(size), LISTED_BYTES, asked.listed)
    yield Line("slices", f"{slices:,}", f"of {asked.rows / slices:,.0f} rows; so many tasks share what follows the cut")
    per_task = asked.rows / slices * TASK_ROW_BYTES.value
    yield _line("memory of the task of a slice", _size(per_task), TASK_ROW_BYTES, asked.rows / slices)


def _slices(asked: Curating) -> int:
    return max(1, min(_MOST_SLICES, math.ceil(asked.rows * POOL_ROW_BYTES.value / (64 << 20))))


def _traffic(asked: Curating) -> Iterator[Line]:
    yield _line("Ray's object store", _size(asked.rows * PART_BYTES.value), PART_BYTES, asked.rows)
    exchanged = asked.rows * ROW_WORK_BYTES.value
    yield _line("work files, written and read once", _size(exchanged), ROW_WORK_BYTES, asked.rows)


def _stored(asked: Curating) -> Iterator[Line]:
    media = asked.images * PICTURE_BYTES.value + asked.clips * CLIP_BYTES.value
    yield Line("storage of the pool", _size(media), f"{PICTURE_BYTES.by}; {CLIP_BYTES.by}")
    yield Line("of one dataset, everything kept", _size(media), "packs are copies, so that a pool serves many recipes")
    yield Line("rows of the pool", _size(asked.rows * POOL_ROW_BYTES.value), POOL_ROW_BYTES.by)


def _line(what: str, value: str, measured: Measured, units: float) -> Line:
    beyond = units > measured.up_to
    return Line(what, value, measured.by, f"from {measured.up_to:,.0f} to {units:,.0f}" if beyond else "")


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:,.2f} h" if hours < 10 else f"{hours:,.0f} h"


def _size(size: float) -> str:
    if size < _GIB:
        return f"{size / 2**20:,.0f} MiB"
    return f"{size / _GIB:,.1f} GiB" if size < 1024 * _GIB else f"{size / 2**40:,.1f} TiB"
