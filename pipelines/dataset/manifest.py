"""What a dataset folder says of its samples: `manifest.parquet`, one row each."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal, TypedDict

import pyarrow as pa

from skyreels.storage import DamageError

MANIFEST = "manifest.parquet"
_REMEDY = "run `jobs/curate.py verify` on the output that holds the dataset"


class Kind(StrEnum):
    """Of sources and of the clips that are cut from them."""

    VIDEO = "video"
    IMAGE = "image"
    AUDIO = "audio"


COLUMNS: Mapping[str, pa.DataType] = {
    "key": pa.string(),
    "source_id": pa.string(),
    "part_id": pa.string(),
    "kind": pa.string(),
    "start_s": pa.float64(),
    "end_s": pa.float64(),
    "width": pa.int32(),
    "height": pa.int32(),
    "fps": pa.float64(),
    "frames": pa.int32(),
    "has_audio": pa.bool_(),
    "crop": pa.list_(pa.int32()),
    "hashes": pa.list_(pa.uint64()),
    "hash_times": pa.list_(pa.float32()),
    "speech": pa.list_(pa.list_(pa.float64())),
    "parts": pa.string(),
    "members": pa.string(),
    "stage": pa.string(),
    "reason": pa.string(),
    "remedy": pa.string(),
    "detail": pa.string(),
}
"""Of every clip, in this order. Scores, captions and what else is known of it follow under their own names."""


class Facts(TypedDict):
    """What reading a sample takes. Sizes in pixels, times in seconds of its source; `members` is JSON."""

    key: str
    kind: Literal["video", "image", "audio"]
    width: int
    height: int
    fps: float | None
    frames: int
    has_audio: bool | None
    start_s: float
    end_s: float
    members: str


class Sample(Facts, total=False):
    """A row of a manifest; the captions that there are."""

    caption_short: str | None
    caption_long: str | None
    caption_structured: str | None
    caption_parts: str | None


_CAPTIONS = dict.fromkeys(sorted(Sample.__annotations__.keys() - Facts.__annotations__.keys()), pa.string())


def samples_in(table: pa.Table, where: str) -> list[Sample]:
    """The rows of the manifest at `where`. Raises DamageError for a table that is none."""
    absent = sorted(Facts.__annotations__.keys() - set(table.column_names))
    if absent:
        raise DamageError(f"{where} is no manifest: it has no column {', '.join(absent)}; {_REMEDY}")
    wanted = {name: COLUMNS[name] for name in Facts.__annotations__}
    wanted |= {name: kind for name, kind in _CAPTIONS.items() if name in table.column_names}
    try:
        rows: list[Sample] = table.select(list(wanted)).cast(pa.schema(wanted)).to_pylist()
    except pa.ArrowException as error:
        raise DamageError(f"{where} is no manifest: {error}; {_REMEDY}") from error
    return rows
