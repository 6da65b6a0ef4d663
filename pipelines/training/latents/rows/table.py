"""One bucket of one cache, mapped: rows by number, by key, and by their place among those of some contents."""

import hashlib
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.dataset.node_copies import at_hand
from pipelines.training.latents.sample import LatentKind
from skyreels.commits import CommittedFile
from skyreels.config import Config
from skyreels.shards import Member
from skyreels.storage import DamageError, Storage

BLOCK = 1 << 13
"""Rows that are written, and checked, together."""
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("contents", pa.uint16()),
        ("shard", pa.uint32()),
        ("json_offset", pa.int64()),
        ("json_size", pa.int32()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("crc32", pa.uint32()),
    ]
)
_NUMBERS = {field.name: np.dtype(str(field.type)).type for field in SCHEMA if field.name != "key"}
_OPEN_BLOCKS = 256  # views into the map that are kept

N = TypeVar("N", bound=np.generic)
Wanted = tuple[int, ...]
"""Numbers of contents."""


class LatentError(ValueError):
    """A latent cache, or a sample of it, that cannot be used: which file, why, and what to do."""


class Contents(Config):
    """What a sample holds, as far as tasks ask for it. `texts` and `references` name, `extensions` and `regions` count
    what `LatentSample` has of them."""

    kind: LatentKind
    has_audio: bool
    texts: tuple[str, ...]
    references: tuple[str, ...]
    extensions: int
    regions: int
    refined: bool


class TableFacts(Config):
    """Of a bucket in `index.json`. `counts` are samples by number of contents, `smallest` the clips that may be held
    out (see `data.held_out`); `seconds` is nominal, 0 for pictures."""

    seconds: float
    contents: tuple[Contents, ...]
    counts: tuple[int, ...]
    smallest: tuple[str, ...]
    rows: CommittedFile
    shards: CommittedFile
    blocks: CommittedFile

    @property
    def files(self) -> tuple[CommittedFile, ...]:
        return self.rows, self.shards, self.blocks


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """What is known of a sample without reading it: its `Contents`, and where it lies."""

    key: str
    kind: LatentKind
    bucket: str
    has_audio: bool
    seconds: float
    texts: tuple[str, ...]
    references: tuple[str, ...]
    extensions: int
    regions: int
    refined: bool
    shard: str
    json_offset: int
    json_size: int
    offset: int
    size: int
    crc32: int

    @property
    def members(self) -> dict[str, Member]:
        """Where its two files lie."""
        return {
            "json": Member(self.shard, self.json_offset, self.json_size),
            "safetensors": Member(self.shard, self.offset, self.size),
        }


@dataclass(frozen=True)
class _Block:
    """Views of a block's columns."""

    keys: pa.Array
    numbers: dict[str, NDArray[Any]]

    def key(self, at: int) -> str:
        key: str = self.keys[at].as_py()
        return key


class Table:
    """An open bucket. Nothing here grows with its rows but views of the blocks that were touched."""

    def __init__(self, storage: Storage, bucket: str, facts: TableFacts, fingerprint: str, remedy: str) -> None:
        """Raises LatentError, naming the file and the `remedy`, where files are not those that were written; rows are
        compared block by block when they are read."""
        self.storage, self.bucket, self.facts, self.fingerprint = storage, bucket, facts, fingerprint
        self._remedy = remedy
        self._rows = pa.ipc.open_file(self._mapped(facts.rows))
        self._shards = pa.ipc.open_file(self._mapped(facts.shards))
        blocks = pa.ipc.open_file(self._mapped(facts.blocks, whole=True)).get_batch(0)
        self._crc32 = numbers(blocks["crc32"], np.uint32)
        self._first = blocks["first"]
        self._before = numbers(blocks["before"].values, np.int64).reshape(len(blocks), -1)
        self._sound: set[int] = set()
        self._block = lru_cache(_OPEN_BLOCKS)(self._read_block)
        self._among = lru_cache(_OPEN_BLOCKS)(self._marked)
        self._names = lru_cache(_OPEN_BLOCKS)(self._read_names)

    def __len__(self) -> int:
        return sum(self.facts.counts)

    def entry(self, row: int) -> IndexEntry:
        """The sample of a row."""
        block, at = self._block(row // BLOCK), row % BLOCK
        found: dict[str, Any] = {name: column.item(at) for name, column in block.numbers.items()}
        return IndexEntry(
            key=block.key(at),
            bucket=self.bucket,
            seconds=self.facts.seconds,
            shard=self._names(found["shard"] // BLOCK)[found.pop("shard") % BLOCK].as_py(),
            **self._contents[found.pop("contents")],
            **found,
        )

    def key(self, row: int) -> str:
        return self._block(row // BLOCK).key(row % BLOCK)

    def contents_of(self, row: int) -> int:
        """Their number."""
        number: int = self._block(row // BLOCK).numbers["contents"].item(row % BLOCK)
        return number

    def search(self, key: str) -> int:
        """The first row whose key is not less; the number of rows where all are."""
        number = bisect_right(self._first, key, key=lambda first: first.as_py()) - 1
        if number < 0:
            return 0
        keys = self._block(number).keys
        return number * BLOCK + bisect_left(keys, key, key=lambda other: other.as_py())

    def count(self, wanted: Wanted) -> int:
        """Rows of these contents."""
        return sum(self.facts.counts[number] for number in wanted)

    def select(self, wanted: Wanted, place: int) -> int:
        """The row that stands at `place` among those of these contents."""
        columns = list(wanted)

        def before(number: int) -> int:
            return int(self._before[number, columns].sum())

        number = bisect_right(range(len(self._before)), place, key=before) - 1
        return number * BLOCK + int(np.flatnonzero(self._within(number, wanted))[place - before(number)])

    def place(self, wanted: Wanted, row: int) -> int:
        """How many rows of these contents come before a row."""
        number, at = divmod(row, BLOCK)
        return int(self._before[number, list(wanted)].sum()) + int(self._within(number, wanted)[:at].sum())

    def every_key(self) -> Iterator[str]:
        """All of them, in order: O(rows)."""
        for number in range(self._rows.num_record_batches):
            yield from self._read_block(number).keys.to_pylist()

    def _within(self, number: int, wanted: Wanted) -> NDArray[np.bool_]:
        among: NDArray[np.bool_] = self._among(wanted)[self._block(number).numbers["contents"]]
        return among

    def _marked(self, wanted: Wanted) -> NDArray[np.bool_]:
        """Of every number of contents, whether it is wanted."""
        return np.isin(np.arange(len(self.facts.contents)), wanted)

    @cached_property
    def _contents(self) -> list[dict[str, Any]]:
        return [{name: getattr(one, name) for name in Contents.model_fields} for one in self.facts.contents]

    def _read_block(self, number: int) -> "_Block":
        block = self._rows.get_batch(number)
        if number not in self._sound:
            if checksum(block) != self._crc32[number]:
                where = self.storage.location(self.facts.rows.name)
                raise LatentError(
                    f"{where} is damaged (the CRC-32 of rows {number * BLOCK} and following is another): {self._remedy}"
                )
            self._sound.add(number)
        return _Block(block["key"], {name: numbers(block[name], kind) for name, kind in _NUMBERS.items()})

    def _read_names(self, number: int) -> pa.Array:
        return self._shards.get_batch(number)["shard"]

    def _mapped(self, file: CommittedFile, *, whole: bool = False) -> pa.MemoryMappedFile:
        """The file's map, if it has its size; `whole`: if it has its bytes."""
        where = self.storage.location(file.name)
        try:
            path = at_hand("index", self.storage, file)
            size = path.stat().st_size
        except FileNotFoundError as error:
            raise LatentError(f"{where} is missing: {self._remedy}") from error
        except DamageError as error:
            raise LatentError(f"{error}: {self._remedy}") from error
        if size != file.bytes:
            raise LatentError(f"{where} is damaged ({size} of {file.bytes} bytes): {self._remedy}")
        mapped = pa.memory_map(str(path))
        if whole and hashlib.sha256(mapped.read_buffer()).hexdigest() != file.sha256:
            raise LatentError(f"{where} is damaged (it differs from its checksum): {self._remedy}")
        mapped.seek(0)
        return mapped


def numbers(column: pa.Array, kind: type[N]) -> NDArray[N]:
    """A column of a block as it lies in memory. (pyarrow's own way imports pandas: a second of a worker's start.)"""
    return np.frombuffer(column.buffers()[1], kind, len(column), column.offset * np.dtype(kind).itemsize)


def checksum(block: pa.RecordBatch) -> int:
    """CRC-32 of a block's buffers as they lie in the file."""
    crc32 = 0
    for column in block.columns:
        for buffer in column.buffers():
            crc32 = zlib.crc32(buffer, crc32) if buffer is not None else crc32
    return crc32
