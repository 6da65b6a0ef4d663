"""WebDataset shards that are byte-identical whenever the same samples are written."""

import io
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from skyreels.commits import CommittedFile
from skyreels.storage import DamageError, MissingError, Storage, open_input, sha256_file

_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BLOCK = 512


@dataclass(frozen=True)
class Member:
    """Where one file of a sample lies inside an (uncompressed) shard: read it with one ranged read.

    `crc32` is of its bytes; None where nobody wrote it down.
    """

    shard: str
    offset: int
    size: int
    crc32: int | None = None

    @property
    def place(self) -> list[str | int | None]:
        """As it is stored: `Member(*place)` is the member."""
        return [self.shard, self.offset, self.size, self.crc32]


class ShardError(ValueError):
    """A sample that would make a shard unreadable."""


@dataclass
class ShardWriter:
    """Writes samples to `<prefix>-00000.tar`, `-00001.tar`, … and rolls at a byte target or sample cap.

    Samples are written in the order given; owner, mode and time are fixed, so the same samples give the same
    bytes. Use `open_shards`, which publishes each shard in one step and discards the current one on an error.
    """

    storage: Storage
    prefix: str
    max_bytes: int = 256 << 20
    max_samples: int = 10_000
    files: list[CommittedFile] = field(default_factory=list)
    members: dict[str, dict[str, Member]] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)
    _tar: tarfile.TarFile | None = None
    _path: Path = Path()
    _keys: list[str] = field(default_factory=list)

    def add(self, key: str, parts: Mapping[str, bytes | Path]) -> dict[str, Member]:
        """Append one sample: extension (`mp4`, `json`, …) -> bytes or a local file."""
        self._check(key, parts)
        sizes = {name: _size(part) for name, part in parts.items()}
        if self._tar is not None and (
            self._tar.offset + sum(sizes.values()) > self.max_bytes or len(self._keys) >= self.max_samples
        ):
            self.finish_shard()
        tar = self._tar or self._start_shard()
        placed = {}
        for extension in sorted(parts):
            header = tarfile.TarInfo(f"{key}.{extension}")
            header.size, header.mtime, header.mode = sizes[extension], 0, 0o644
            header.uid = header.gid = 0
            with _reader(parts[extension]) as source:
                checked = _Checked(source)
                tar.addfile(header, checked)
            stored = -(-header.size // _BLOCK) * _BLOCK
            placed[extension] = Member(self._shard_name(), tar.offset - stored, header.size, checked.crc32)
        self._keys.append(key)
        self.members[key] = placed
        return placed

    def finish_shard(self) -> None:
        """Close and publish the current shard, if there is one."""
        if self._tar is None:
            return
        self._tar.close()
        name = self._shard_name()
        entry = CommittedFile(
            name=name, sha256=sha256_file(self._path), bytes=self._path.stat().st_size, keys=tuple(self._keys)
        )
        self._tar, self._keys = None, []
        self._stack.close()  # publishes
        self.files.append(entry)

    def discard_shard(self, error: BaseException) -> None:
        """Drop the current shard without publishing it."""
        if self._tar is not None:
            self._tar.close()
            self._tar = None
        self._stack.__exit__(type(error), error, error.__traceback__)

    def _start_shard(self) -> tarfile.TarFile:
        self._path = self._stack.enter_context(self.storage.staged(self._shard_name()))
        self._tar = tarfile.open(self._path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 (closed on finish)
        return self._tar

    def _shard_name(self) -> str:
        return f"{self.prefix}-{len(self.files):05d}.tar"

    def _check(self, key: str, parts: Mapping[str, bytes | Path]) -> None:
        if not _KEY.fullmatch(key):
            raise ShardError(f"sample key {key!r}: only letters, digits, '_' and '-' survive a WebDataset reader")
        if key in self.members:
            raise ShardError(f"sample key {key!r} comes twice in {self.prefix}: readers refuse such a shard")
        if not parts:
            raise ShardError(f"sample {key!r} has no files")


@contextmanager
def open_shards(
    storage: Storage, prefix: str, *, max_bytes: int = 256 << 20, max_samples: int = 10_000
) -> Iterator[ShardWriter]:
    """A ShardWriter whose last shard is published at the end, or discarded on an error."""
    writer = ShardWriter(storage, prefix, max_bytes, max_samples)
    try:
        yield writer
    except BaseException as error:
        writer.discard_shard(error)
        raise
    writer.finish_shard()


def read_member(storage: Storage, member: Member) -> bytes:
    """One file of a sample, by a single ranged read. Raises DamageError where its bytes are not those written."""
    where = storage.location(member.shard)
    try:
        with open_input(where) as stream:
            stream.seek(member.offset)
            data = stream.read(member.size)
    except FileNotFoundError:
        raise MissingError(f"{where} is missing") from None
    if len(data) != member.size:
        raise DamageError(f"{where}: {len(data)} of {member.size} bytes from {member.offset} on: it is cut short")
    if member.crc32 is not None and zlib.crc32(data) != member.crc32:
        span = f"bytes {member.offset} to {member.offset + member.size}"
        raise DamageError(f"{where}: {span} differ from what was written (CRC-32)")
    return data


class _Checked(io.RawIOBase):
    """Bytes on their way into a shard, and the CRC-32 of those that have passed."""

    def __init__(self, source: io.BufferedReader | io.BytesIO) -> None:
        self._source = source
        self.crc32 = 0

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self.crc32 = zlib.crc32(data, self.crc32)
        return data


@contextmanager
def _reader(part: bytes | Path) -> Iterator[io.BufferedReader | io.BytesIO]:
    if isinstance(part, bytes):
        yield io.BytesIO(part)
    else:
        with part.open("rb") as file:
            yield file


def _size(part: bytes | Path) -> int:
    return len(part) if isinstance(part, bytes) else part.stat().st_size
