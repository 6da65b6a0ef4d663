"""Finding the inputs: folders, globs, S3 prefixes, manifests (CSV, JSONL, Parquet) and WebDataset tars."""

import csv
import fnmatch
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq

from pipelines.curation.records import Kind, Source
from skyreels import storage

EXTENSIONS: Mapping[str, Kind] = {
    **dict.fromkeys(("mp4", "mov", "mkv", "webm", "avi", "m4v", "ts", "mts", "flv", "mpg", "mpeg", "wmv", "3gp",
                     "ogv"), Kind.VIDEO),
    **dict.fromkeys(("wav", "flac", "mp3", "aac", "m4a", "ogg", "opus"), Kind.AUDIO),
    **dict.fromkeys(("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif"), Kind.IMAGE),
}  # fmt: skip
_MANIFESTS = ("csv", "jsonl", "parquet")
_LOCATION_COLUMNS = ("uri", "path", "url", "file", "location")


class InputError(ValueError):
    """An --input that cannot be read: which, why, and what would be right."""


def find_sources(inputs: Iterable[str]) -> list[Source]:
    """Every media file the inputs name, once each, in order of location.

    A file in a listing whose extension is not a media type is passed over; one that is named itself, alone or
    in a manifest, is taken as video and left to the probe, which looks at bytes and not at names.
    """
    found = {source.uri: source for item in inputs for source in _sources_in(item)}
    return [found[uri] for uri in sorted(found)]


@contextmanager
def opened(source: Source, scratch: Path) -> Iterator[Path]:
    """The source's bytes as a local file, fetched or unpacked into `scratch` if need be."""
    container, _, member = source.uri.partition("#") if _is_member(source.uri) else (source.uri, "", "")
    if not member:
        with storage.local_copy(source.uri, scratch) as path:
            yield path
        return
    path = scratch / f"member-{source.source_id}"
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        with storage.open_input(container) as stream:
            stream.seek(source.meta["_offset"])
            path.write_bytes(stream.read(source.size))
        yield path
    finally:
        path.unlink(missing_ok=True)


def is_there(source: Source) -> bool:
    """Whether the file that holds the source can be found."""
    return storage.exists(source.uri.partition("#")[0] if _is_member(source.uri) else source.uri)


def _sources_in(item: str) -> Iterator[Source]:
    location = storage.normalise(item)
    extension = _extension(location)
    if any(mark in location for mark in "*?[") and not storage.exists(location):
        yield from _in_glob(location)
    elif extension in _MANIFESTS and storage.exists(location):
        yield from _in_manifest(location, extension)
    else:
        files = storage.list_files(location)
        if not files and not storage.exists(location):
            raise InputError(f"{item} does not exist: give a folder, a file, a glob, s3://…, a manifest or a tar")
        alone = len(files) == 1 and files[0].location == location
        for entry in files:
            yield from _file(entry.location, entry.size, {}, assume_media=alone)


def _in_glob(location: str) -> Iterator[Source]:
    parts = location.split("/")
    fixed = next(index for index, part in enumerate(parts) if any(mark in part for mark in "*?["))
    for entry in storage.list_files("/".join(parts[:fixed])):
        if fnmatch.fnmatchcase(entry.location, location):
            yield from _file(entry.location, entry.size, {}, assume_media=True)


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
        yield from _file(target, entries[0].size if entries else 0, meta, assume_media=True)


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
        yield Source.at(f"{location}#{member.name}", EXTENSIONS[_extension(member.name)], member.size, said)


def _file(location: str, size: int, meta: dict[str, Any], *, assume_media: bool) -> Iterator[Source]:
    if _extension(location) == "tar":
        yield from _in_tar(location, size)
        return
    kind = EXTENSIONS.get(_extension(location))
    if kind is not None or assume_media:
        yield Source.at(location, kind or Kind.VIDEO, size, meta)


def _is_member(uri: str) -> bool:
    return ".tar#" in uri


def _extension(location: str) -> str:
    return PurePosixPath(location.partition("#")[0] if not _is_member(location) else location).suffix[1:].lower()
