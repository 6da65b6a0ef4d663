"""Tars as they come: WebDataset shards, joined with `cat`, compressed, with links, folders, names that come twice."""

import bz2
import errno
import gzip
import lzma
import posixpath
import tarfile
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pyarrow as pa

from pipelines.curation.records import Kind, Source
from pipelines.curation.sources.account import Account
from pipelines.curation.sources.text_files import MAX_TEXT_BYTES, UnreadableText, decode_text, parse_json
from skyreels import storage

_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
Read = Callable[[int], bytes]
_PACKED: dict[bytes, Callable[[Any], Read]] = {  # `read1` gives what comes before damage, where `read` gives nothing
    b"\x1f\x8b": lambda packed: gzip.GzipFile(fileobj=packed).read1,
    b"BZh": lambda packed: bz2.BZ2File(packed).read1,
    b"\xfd7zXZ\x00": lambda packed: lzma.LZMAFile(packed).read1,  # noqa: SIM115
    b"\x28\xb5\x2f\xfd": lambda packed: pa.CompressedInputStream(packed, "zstd").read,
}
_MOST_GROWN = 100  # times its size that a compressed tar may unpack to: media hardly shrink
_CHUNK = 1 << 20
_MOST_LINKS = 40  # one behind the other, as Linux follows them
_BLOCK = tarfile.BLOCKSIZE
_SAID = ("json", "txt")
_UNPACKED = "unpacked-"

KindOf = Callable[[str], Kind | None]


class BrokenTar(ValueError):
    """A tar, or a part of it, that cannot be read: where and why."""


def is_tar(location: str) -> bool:
    """By its name, compressed or not."""
    return location.lower().endswith(_SUFFIXES)


def sources_in_tar(location: str, size: int, kind_of: KindOf, account: Account) -> Iterator[Source]:
    """Media members of a tar, by `kind_of` their names; a sample's json and txt become the meta of its media.

    Of a damaged tar the members before the damage are taken, and the tar itself becomes a source that fails. A name
    that comes again, as in joined tars, is another source: `name@2`. `account` is told of every other member.
    """
    contents = _Contents(kind_of, account)
    with _opened(location) as (stream, packed, torn):
        try:
            for number, tar in enumerate(_archives(stream)):
                for member in tar:
                    contents.take(number, member, tar)
            if torn is not None:
                raise torn
        except (tarfile.TarError, BrokenTar) as error:
            damage = {"_unreadable": str(torn or f"{type(error).__name__}: {error}")}
            yield Source.at(location, Kind.VIDEO, size, damage)
    yield from contents.sources(location, packed)


def copy_member(source: Source, scratch: Path, target: Path) -> None:
    """Write a member's bytes to `target`. A compressed tar is unpacked once for its members that follow each other."""
    scratch.mkdir(parents=True, exist_ok=True)
    if "_packed" not in source.meta:
        with storage.open_input(source.container) as stream:
            _copy_span(stream, source, target)
        return
    unpacked = scratch / f"{_UNPACKED}{Source.at(source.container, Kind.VIDEO, 0).source_id}"
    if not unpacked.exists():
        for last in scratch.glob(f"{_UNPACKED}*"):
            last.unlink()
        with storage.open_input(source.container) as packed, unpacked.open("wb") as sink:
            _unpack(packed, sink)  # of a torn tar, the members before the damage are there
    with unpacked.open("rb") as stream:
        _copy_span(stream, source, target)


@dataclass(frozen=True)
class _Media:
    archive: int
    name: str
    nth: int  # of its name in its archive
    kind: Kind
    offset: int
    size: int
    link: str = ""  # the name of what it links to
    why_not: str = ""


@dataclass
class _Contents:
    """What the members of a tar say, gathered in one pass."""

    kind_of: KindOf
    account: Account
    media: list[_Media] = field(default_factory=list)
    said: dict[tuple[int, int, str], dict[str, Any]] = field(default_factory=dict)  # archive, nth, stem
    places: dict[tuple[int, str], tuple[int, int]] = field(default_factory=dict)  # archive, name -> offset, size
    links: dict[tuple[int, str], str] = field(default_factory=dict)  # archive, name -> name of what it links to
    times: Counter[tuple[int, str]] = field(default_factory=Counter)

    def take(self, archive: int, member: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
        name = posixpath.normpath(member.name).lstrip("/")
        link = _link(member, name)
        if _is_hidden(name):
            self.account.hidden += not member.isdir()
            return
        if not (member.isfile() or link):
            return
        self.times[archive, name] += 1
        nth = self.times[archive, name]
        kind, extension = self.kind_of(name), PurePosixPath(name).suffix[1:].lower()
        if kind is not None:
            why = "a sparse file, which is not read: pack it without holes" if member.issparse() else ""
            self.media.append(_Media(archive, name, nth, kind, member.offset_data, member.size, link, why))
        elif extension in _SAID and not link:
            stem = name[: -len(extension) - 1]
            self.said.setdefault((archive, nth, stem), {}).update(_read_said(tar, member, extension))
        else:
            self.account.pass_over(name)
        if link:
            self.links[archive, name] = link
        else:
            self.places[archive, name] = member.offset_data, member.size

    def sources(self, location: str, packed: bool) -> Iterator[Source]:
        self._tell_of_words()
        named: Counter[str] = Counter()
        for found in self.media:
            named[found.name] += 1
            label = found.name if named[found.name] == 1 else f"{found.name}@{named[found.name]}"
            offset, size, why = found.offset, found.size, found.why_not
            if found.link:
                place = self._place(found.archive, found.link)
                offset, size = place or (0, 0)
                why = "" if place else f"a link to {found.link}, which is not in the tar"
            meta = {**self._said_of(found), "_offset": offset}
            if packed:
                meta["_packed"] = True
            if why:
                meta["_unreadable"] = why
            yield Source.at(location, found.kind, size, meta, member=label)

    def _place(self, archive: int, name: str) -> tuple[int, int] | None:
        """Offset and size of a file, also where links lead to it through links."""
        for _ in range(_MOST_LINKS):
            if (archive, name) in self.places:
                return self.places[archive, name]
            name = self.links.get((archive, name), "")
        return None

    def _said_of(self, found: _Media) -> dict[str, Any]:
        key = self._said_under(found)
        return {} if key is None else self.said[key]

    def _said_under(self, found: _Media) -> tuple[int, int, str] | None:
        """Its name without the suffix, else its WebDataset key: up to the first dot."""
        folder, _, base = found.name.rpartition("/")
        stem = found.name[: -len(PurePosixPath(found.name).suffix)]
        names = (stem, posixpath.join(folder, base.partition(".")[0]))
        keys = ((found.archive, found.nth, name) for name in names)
        return next((key for key in keys if key in self.said), None)

    def _tell_of_words(self) -> None:
        """Words are beside a medium, or passed over."""
        used = {self._said_under(found) for found in self.media}
        for key, said in self.said.items():
            if key in used:
                self.account.sidecars += 1
            else:
                self.account.pass_over(f"{key[2]}.{'json' if 'json' in said else 'txt'}")


def _link(member: tarfile.TarInfo, name: str) -> str:
    """The name in the tar that a member links to; "" where it is none."""
    if not (member.islnk() or member.issym()):
        return ""
    base = posixpath.dirname(name) if member.issym() else ""
    return posixpath.normpath(posixpath.join(base, member.linkname)).lstrip("/")


def _is_hidden(name: str) -> bool:
    """As in folders: `._clip.mp4` is what macOS packs beside clip.mp4."""
    return any(part.startswith(".") and part != ".." for part in name.split("/")) or name.startswith("__MACOSX/")


def _read_said(tar: tarfile.TarFile, member: tarfile.TarInfo, extension: str) -> dict[str, Any]:
    """`json` or `txt` as it is written, or `_caption_error`."""
    file = tar.extractfile(member)
    if file is None or member.size > MAX_TEXT_BYTES:
        return {"_caption_error": f"{member.name} has {member.size} bytes; of a text at most {MAX_TEXT_BYTES} are read"}
    try:
        text = decode_text(file.read(), member.name)
        return {extension: parse_json(text) if extension == "json" else text.strip()}
    except UnreadableText as error:
        return {"_caption_error": str(error)}
    except ValueError as error:
        return {"_caption_error": f"{member.name} is not JSON: {error}; mend it in the tar, then run again"}


def _archives(stream: IO[bytes]) -> Iterator[tarfile.TarFile]:
    """The archives that lie one behind the other; each is read to its end before the next is asked for.

    Raises BrokenTar where something other than an archive follows.
    """
    start: int | None = 0
    while start is not None:
        stream.seek(start)
        tar = tarfile.open(fileobj=stream, mode="r:")  # noqa: SIM115 (holds nothing of its own)
        yield tar
        start = _next_archive(stream, tar.offset)


def _next_archive(stream: IO[bytes], end: int) -> int | None:
    """Where the next header lies behind the end of an archive; None where only zeros follow."""
    stream.seek(end)
    at = end
    while chunk := stream.read(_CHUNK):
        if chunk.count(0) != len(chunk):
            at += (len(chunk) - len(chunk.lstrip(b"\0"))) // _BLOCK * _BLOCK
            break
        at += len(chunk)
    else:
        return None
    stream.seek(at)
    try:
        tarfile.TarInfo.frombuf(stream.read(_BLOCK), "utf-8", "surrogateescape")
    except tarfile.TarError as error:
        raise BrokenTar(f"what follows byte {at} is no part of a tar: {error}") from None
    return at


@contextmanager
def _opened(location: str) -> Iterator[tuple[IO[bytes], bool, BrokenTar | None]]:
    """The plain tar, whether it was compressed, and what ended its unpacking early."""
    with storage.open_input(location) as stream:
        if _packing(stream) is None:
            yield stream, False, None
            return
        with tempfile.TemporaryFile(prefix="skyreels-tar-") as plain:
            try:
                torn = _unpack(stream, plain)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                where = tempfile.gettempdir()
                reason = f"no room in {where} to unpack {location}: set TMPDIR to a larger disk, or unpack it yourself"
                raise storage.StorageError(error.errno, reason) from error
            plain.seek(0)
            yield plain, True, torn


def _packing(stream: IO[bytes]) -> Callable[[Any], Read] | None:
    """What unpacks a stream, by its first bytes; None for a plain one."""
    head = stream.read(8)
    stream.seek(0)
    return next((unpack for magic, unpack in _PACKED.items() if head.startswith(magic)), None)


def _unpack(packed: IO[bytes], plain: IO[bytes]) -> BrokenTar | None:
    """Unpack as far as it goes; returns why that is not to the end."""
    size = packed.seek(0, 2)
    packed.seek(0)
    unpack = _packing(packed)
    assert unpack is not None
    read, left = unpack(packed), size * _MOST_GROWN
    while True:
        try:
            chunk = read(_CHUNK)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            return BrokenTar(f"cannot be unpacked to its end: {type(error).__name__}: {error}")
        if not chunk:
            return None
        left -= len(chunk)
        if left < 0:
            return BrokenTar(f"unpacks to more than {_MOST_GROWN} times its size: unpack it yourself if that is right")
        plain.write(chunk)


def _copy_span(stream: IO[bytes], source: Source, target: Path) -> None:
    stream.seek(source.meta["_offset"])
    left = source.size
    with target.open("wb") as sink:
        while left and (chunk := stream.read(min(_CHUNK, left))):
            sink.write(chunk)
            left -= len(chunk)
