"""What the clips are made of: named classes, and how evenly the dataset holds them."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.types as types

_MOST_VALUES = 40  # a column with more distinct values than this is free text, not a class
_MOST_SHOWN = 12
_LENGTH = re.compile(r"[\d.]+s")


@dataclass(frozen=True)
class Share:
    """One value of a class column; `kept_share` is its part of the kept clips that have a value."""

    value: str
    kept: int
    rejected: int
    kept_share: float


@dataclass(frozen=True)
class Mix:
    """A class column, its values from frequent to rare; `others` values beyond those shown."""

    name: str
    shares: tuple[Share, ...]
    others: int

    @property
    def largest(self) -> int:
        return max(share.kept + share.rejected for share in self.shares)


@dataclass(frozen=True)
class BucketTable:
    """Clips per bucket, laid out by shape (rows) and length in seconds (columns; stills have none)."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[int, ...]], ...]
    largest: int


def bucket_table(buckets: Mapping[str, int]) -> BucketTable:
    """From names such as `video-480p-16x9-5s` and `image-480p-1x1`."""
    cells: dict[str, dict[str, int]] = {}
    for name, number in sorted(buckets.items()):
        shape, _, length = name.rpartition("-")
        if not _LENGTH.fullmatch(length):
            shape, length = name, "still"
        cells.setdefault(shape, {})[length] = number
    lengths = {length for row in cells.values() for length in row}
    columns = tuple(sorted(lengths, key=lambda length: -1.0 if length == "still" else float(length[:-1])))
    rows = tuple((shape, tuple(row.get(length, 0) for length in columns)) for shape, row in cells.items())
    return BucketTable(columns, rows, max(buckets.values(), default=0))


def class_mixes(clips: pa.Table, kept: np.ndarray) -> list[Mix]:
    """One per text or yes-no score that at least one clip has, and the mix of kinds. `kept` (N,) bool per row."""
    scores = sorted(name for name in clips.column_names if "." in name and _is_class(clips.schema.field(name).type))
    return [mix for name in ["kind", *scores] for mix in _mix(name, clips.column(name).to_pylist(), kept)]


def _mix(name: str, values: list, kept: np.ndarray) -> Iterator[Mix]:
    inside = Counter(value for value, keep in zip(values, kept, strict=True) if keep and value is not None)
    outside = Counter(value for value, keep in zip(values, kept, strict=True) if not keep and value is not None)
    total = inside + outside
    if not total or len(total) > _MOST_VALUES:
        return
    ranked = sorted(total, key=lambda value: (-total[value], str(value)))
    of = max(1, inside.total())
    shown = ranked[:_MOST_SHOWN]
    shares = tuple(Share(_worded(v), inside[v], outside[v], inside[v] / of) for v in shown)
    yield Mix(name, shares, len(ranked) - len(shown))


def _worded(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _is_class(kind: pa.DataType) -> bool:
    return bool(types.is_string(kind) or types.is_boolean(kind) or types.is_dictionary(kind))
