"""Finding the inputs: folders, globs, S3 prefixes, manifests (CSV, JSONL, Parquet) and WebDataset tars."""

import csv
import fnmatch
import io
import json
import os
import tarfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pyarrow.parquet as pq

from pipelines.curation.account import Account
from pipelines.curation.records import Kind, Source
from skyreels import storage
from skyreels.listing import Why
from skyreels.locations import local_path, printable, spelled
from skyreels.storage import FileEntry

EXTENSIONS: Mapping[str, Kind] = {
    **dict.fromkeys((
        "mp4", "m4v", "mov", "qt", "mkv", "webm", "avi", "divx", "ts", "m2t", "mts", "m2ts", "tod", "flv", "f4v", "mpg",
        "mpeg", "mpe", "m2v", "m2p", "mod", "vob", "wmv", "asf", "3gp", "3g2", "ogv", "ogm", "mxf", "dv", "rm", "rmvb",
    ), Kind.VIDEO),
    **dict.fromkeys((
        "wav", "wave", "bwf", "w64", "flac", "mp2", "mp3", "aac", "m4a", "m4b", "ogg", "oga", "opus", "spx", "mka",
        "weba", "wma", "aif", "aiff", "aifc", "caf", "au", "amr", "ac3", "eac3", "dts", "ape", "wv",
    ), Kind.AUDIO),
    **dict.fromkeys((
        "jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "bmp", "dib", "tif", "tiff", "gif", "heic", "heif", "hif",
        "avif", "jp2", "jxl", "dng", "cr2", "cr3", "nef", "arw",
    ), Kind.IMAGE),
}  # fmt: skip
"""By suffix, the kind that is expected; what a file is, its bytes say. Some no decoder here reads: they become rows."""
_MANIFESTS = ("csv", "jsonl", "parquet")
_LOCATION_COLUMNS = ("uri", "path", "url", "file", "location")
_SIDECARS = ("txt", "json")
_MARKS = "*?["
_BLOCK = 1 << 20
_OWN = ("pool", "layers", "datasets")  # what curation writes below its output, known by the plan in its pool
_PLAN = "pool/_plan"


class InputError(ValueError):
    """An --input that cannot be read: which, why, and what would be right."""


def find_sources(inputs: Iterable[str], account: Account | None = None) -> list[Source]:
    """Every media file the inputs name, once each, in order of location; `account` is told of everything else there.

    A file in a listing whose extension is not a media type is passed over; one that is named itself, alone or
    in a manifest, is taken as video and left to the probe, which looks at bytes and not at names. What an earlier
    curation wrote below an input is left out.
    """
    account = Account() if account is None else account
    found: dict[str, Source] = {}
    for item in inputs:
        for source in _sources_in(item, account):
            found.setdefault(source.source_id, source)
    return sorted(found.values(), key=lambda source: (source.uri, source.source_id))


def refuse_own(inputs: Iterable[str], output: str) -> None:
    """Raises InputError where an input is part of what curation writes to `output`."""
    own = [_real(storage.join(storage.normalise(output), name)) for name in _OWN]
    for item in inputs:
        location = _real(storage.normalise(item))
        if any(f"{location}/".startswith(f"{folder}/") for folder in own):
            raise InputError(f"{item} is part of what --output {output} holds: give another --output, or other inputs")


@contextmanager
def opened(source: Source, scratch: Path) -> Iterator[Path]:
    """The source's bytes as a local file, fetched or unpacked into `scratch` if need be; its name is UTF-8."""
    if not source.container:
        with storage.local_copy(source.uri, scratch) as path:
            yield _plainly_named(path, scratch, source)
        return
    path = scratch / f"member-{source.source_id}"
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        with storage.open_input(source.container) as stream, path.open("wb") as sink:
            stream.seek(source.meta["_offset"])
            _copy(stream, sink, source.size)
        yield path
    finally:
        path.unlink(missing_ok=True)


def _plainly_named(path: Path, scratch: Path, source: Source) -> Path:
    """The path, or a link to it where its bytes are no text: decoders take names as UTF-8."""
    if spelled(str(path)) == str(path):
        return path
    scratch.mkdir(parents=True, exist_ok=True)
    link = scratch / f"link-{source.source_id}"
    link.unlink(missing_ok=True)
    link.symlink_to(path)
    return link


def _copy(stream: IO[bytes], sink: IO[bytes], size: int) -> None:
    """Copy `size` bytes, or what there is of them."""
    while size > 0 and (block := stream.read(min(size, _BLOCK))):
        sink.write(block)
        size -= len(block)


def _sources_in(item: str, account: Account) -> Iterator[Source]:
    """The sources of one input, each named relative to it."""
    location = storage.normalise(item)
    if storage.is_file(location):
        base = _folder(location)
        if (extension := _extension(location)) in _MANIFESTS:
            sources = _in_manifest(location, extension)
        else:
            sources = _file(storage.list_files(location)[0], {})
    elif storage.exists(location):
        base, sources = location, _media_of(_listed(location, account), account)
    elif any(mark in item for mark in _MARKS):
        base, sources = _in_glob(item, account)
    else:
        known = "give a folder, a file, a glob, s3://…, a manifest or a tar"
        raise InputError(f"{printable(item)} does not exist: {known}")
    for source in sources:
        yield source.model_copy(update={"name": printable(_below(source.uri, base))})


def _in_glob(item: str, account: Account) -> tuple[str, Iterator[Source]]:
    """The folder that a glob starts from, and what it matches; a folder that has `[` in its name is itself.

    A glob that ends in a suffix names its files; one that does not, such as `films/*`, is a listing.
    """
    location = storage.normalise(item)
    parts = (location if storage.is_remote(location) else str(local_path(location))).split("/")
    fixed = next(
        index for index, part in enumerate(parts)
        if any(mark in part for mark in _MARKS) and not storage.exists(spelled("/".join(parts[: index + 1])))
    )  # fmt: skip
    base, pattern = spelled("/".join(parts[:fixed])), "/".join(parts[fixed:])
    files = [e for e in _listed(base, account) if fnmatch.fnmatchcase(_below(e.location, base), pattern)]
    if not files:
        raise InputError(f"nothing to curate: {printable(item)} matches no file below {printable(base)}")
    suffix = PurePosixPath(pattern).suffix
    if suffix and not any(mark in suffix for mark in _MARKS):
        return base, (source for entry in files for source in _file(entry, {}))
    return base, _media_of(files, account)


def _listed(base: str, account: Account) -> list[FileEntry]:
    """The files below a folder, without what curation wrote; the account is told of what is not among them."""
    found = storage.survey(base, _own_below)
    broken = [entry for entry in found.skipped if entry.why is Why.BROKEN_LINK and _is_media(entry.path)]
    account.skip(entry for entry in found.skipped if entry not in broken)
    files = [*found.files, *(FileEntry(entry.path, 0) for entry in broken)]  # a link to nothing fails with a row
    roots = {e.location.partition(f"/{_PLAN}/")[0] for e in files if f"/{_PLAN}/" in e.location}
    own = tuple(f"{root}/{name}" for root in sorted(roots) for name in _OWN)  # on S3, where no folder is entered
    account.own += own
    return [entry for entry in files if not entry.location.startswith(tuple(f"{folder}/" for folder in own))]


def _own_below(folder: str, names: Collection[str]) -> Collection[str]:
    """What curation wrote to a folder."""
    return _OWN if "pool" in names and os.path.isdir(f"{folder}/{_PLAN}") else ()


def _media_of(files: Sequence[FileEntry], account: Account) -> Iterator[Source]:
    """What has the name of media, or is a tar; the account is told of the others."""
    stems = {_stem(entry.location) for entry in files if _is_media(entry.location)}
    for entry in files:
        if _is_media(entry.location):
            yield from _file(entry, {})
        elif _extension(entry.location) in _SIDECARS and _stem(entry.location) in stems:
            account.sidecars += 1
        else:
            account.pass_over(entry.location)


def _in_manifest(location: str, extension: str) -> Iterator[Source]:
    rows = _rows(location, extension)
    for number, row in enumerate(rows, start=1):
        name = next((column for column in _LOCATION_COLUMNS if row.get(column)), None)
        if name is None:
            raise InputError(f"{location}, row {number}: no location; name it in one of {', '.join(_LOCATION_COLUMNS)}")
        target = str(row[name])
        if not storage.is_remote(target) and not Path(target).is_absolute():
            target = storage.join(location.rsplit("/", 1)[0], target)
        target = storage.normalise(target)
        meta = {key: value for key, value in row.items() if key != name and value not in (None, "")}
        entries = storage.list_files(target)
        yield from _file(FileEntry(target, entries[0].size if entries else 0), meta)


def _rows(location: str, extension: str) -> list[dict[str, Any]]:
    if extension == "parquet":
        with storage.open_input(location) as stream:
            rows: list[dict[str, Any]] = pq.read_table(stream).to_pylist()
            return rows
    text = storage.read_bytes(location).decode("utf-8-sig")
    if extension == "csv":
        return [dict(row) for row in csv.DictReader(io.StringIO(text))]
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise InputError(f"{location}, line {number} is not JSON: {error}") from None
    return rows


def _in_tar(location: str, size: int) -> Iterator[Source]:
    """Media members of a WebDataset tar; a sample's json and txt members become its sources' meta.

    Of a damaged tar the members before the damage are taken, and the tar itself becomes a source that fails.
    """
    media: list[tuple[str, tarfile.TarInfo]] = []
    meta: dict[str, dict[str, Any]] = {}
    try:
        with storage.open_input(location) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                if not member.isfile():
                    continue
                if _extension(member.name) in EXTENSIONS:
                    media.append((key, member))
                elif extension in ("json", "txt") and (file := tar.extractfile(member)) is not None:
                    text = file.read().decode("utf-8", "replace")
                    said = json.loads(text) if extension == "json" else text.strip()
                    meta.setdefault(key, {})[extension] = said
    except (tarfile.TarError, json.JSONDecodeError, EOFError) as error:
        yield Source.at(location, Kind.VIDEO, size, {"_unreadable": f"{type(error).__name__}: {error}"})
    for key, member in media:
        said = {**meta.get(key, {}), "_offset": member.offset_data}
        yield Source.at(location, EXTENSIONS[_extension(member.name)], member.size, said, member=member.name)


def _file(entry: FileEntry, meta: dict[str, Any]) -> Iterator[Source]:
    """A file that was named, or that has the name of media: what its suffix does not tell is left to the probe."""
    extension = _extension(entry.location)
    if extension == "tar":
        yield from _in_tar(entry.location, entry.size)
    else:
        yield Source.at(entry.location, EXTENSIONS.get(extension, Kind.VIDEO), entry.size, meta)


def _below(location: str, base: str) -> str:
    """A location relative to a folder; one elsewhere by its last part, or whole where no machine's path is in it."""
    if storage.is_remote(location):
        return location.removeprefix(f"{base}/")
    path, folder = str(local_path(location)), str(local_path(base)).rstrip("/")
    return path[len(folder) + 1 :] if path.startswith(f"{folder}/") else path.rpartition("/")[2]


def _real(location: str) -> str:
    return location if storage.is_remote(location) else os.path.realpath(local_path(location))


def _is_media(location: str) -> bool:
    return _extension(location) in EXTENSIONS or _extension(location) == "tar"


def _folder(location: str) -> str:
    return location.rpartition("/")[0]


def _stem(location: str) -> str:
    """The location without its suffix."""
    return location[: -len(_extension(location)) - 1]


def _extension(location: str) -> str:
    return PurePosixPath(location).suffix[1:].lower()
