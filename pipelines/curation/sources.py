"""Finding the inputs: folders, globs, S3 prefixes, manifests (CSV, JSONL, Parquet) and WebDataset tars."""

import fnmatch
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.curation.folders import Folders, stamped
from pipelines.curation.manifests import EXTENSIONS as MANIFESTS
from pipelines.curation.manifests import InputError as InputError
from pipelines.curation.manifests import read_manifest
from pipelines.curation.records import Kind, Source
from pipelines.curation.tars import copy_member, is_tar, sources_in_tar
from pipelines.curation.user_captions import with_user_captions
from skyreels import storage

logger = logging.getLogger(__name__)

EXTENSIONS: Mapping[str, Kind] = {
    **dict.fromkeys(("mp4", "mov", "mkv", "webm", "avi", "m4v", "ts", "mts", "flv", "mpg", "mpeg", "wmv", "3gp",
                     "ogv"), Kind.VIDEO),
    **dict.fromkeys(("wav", "flac", "mp3", "aac", "m4a", "ogg", "opus"), Kind.AUDIO),
    **dict.fromkeys(("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif"), Kind.IMAGE),
}  # fmt: skip


def find_sources(inputs: Iterable[str]) -> list[Source]:
    """Every media file the inputs name, once each, in order of location.

    A file in a listing whose extension is not a media type is passed over; one that is named itself, alone or
    in a manifest, is taken as video and left to the probe, which looks at bytes and not at names.
    """
    found: dict[str, Source] = {}
    for item in inputs:
        for source in _sources_in(item):
            found[source.uri] = _told_of_again(found[source.uri], source) if source.uri in found else source
    folders = Folders()
    ordered = [found[uri] for uri in sorted(found)]
    dated = stamped([(source, _container(source) or source.uri) for source in ordered], folders)
    return with_user_captions(list(dated), folders)


@contextmanager
def opened(source: Source, scratch: Path) -> Iterator[Path]:
    """The source's bytes as a local file, fetched or unpacked into `scratch` if need be."""
    container = _container(source)
    if container is None:
        with storage.local_copy(source.uri, scratch) as path:
            yield path
        return
    path = scratch / f"member-{source.source_id}"
    try:
        copy_member(source, container, scratch, path)
        yield path
    finally:
        path.unlink(missing_ok=True)


def _told_of_again(before: Source, now: Source) -> Source:
    """A source that several rows or inputs name: all that they say holds; of what contradicts, the later."""
    differ = sorted(name for name, value in now.meta.items() if before.meta.get(name, value) != value)
    if differ:
        logger.warning("%s is described twice, and not alike: %s; the later is used", now.uri, ", ".join(differ))
    return now.model_copy(update={"meta": before.meta | now.meta, "manifest": now.manifest or before.manifest})


def _sources_in(item: str) -> Iterator[Source]:
    location = storage.normalise(item)
    extension = _extension(location)
    if any(mark in location for mark in "*?[") and not storage.exists(location):
        yield from _in_glob(location)
    elif extension in MANIFESTS and storage.exists(location):
        yield from _in_manifest(location)
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


def _in_manifest(location: str) -> Iterator[Source]:
    for where, target, meta in read_manifest(location):
        try:
            entries = storage.list_files(target)
        except storage.StorageError as error:
            raise InputError(f"{where}: {error}") from error
        if entries and entries[0].location != target:
            raise InputError(f"{where}: {target} is a folder; name its files, or give the folder as --input")
        for source in _file(target, entries[0].size if entries else 0, meta, assume_media=True):
            yield source.model_copy(update={"manifest": location})


def _file(location: str, size: int, meta: dict[str, Any], *, assume_media: bool) -> Iterator[Source]:
    if is_tar(location):
        for source in sources_in_tar(location, size, _kind_of):
            yield source.model_copy(update={"meta": source.meta | meta})
        return
    kind = EXTENSIONS.get(_extension(location))
    if kind is not None or assume_media:
        yield Source.at(location, kind or Kind.VIDEO, size, meta)


def _kind_of(name: str) -> Kind | None:
    return EXTENSIONS.get(_extension(name))


def _container(source: Source) -> str | None:
    """The tar that a source is a member of."""
    if "_offset" not in source.meta:
        return None
    parts = source.uri.split("#")
    return next(tar for n in range(1, len(parts)) if is_tar(tar := "#".join(parts[:n])))


def _extension(location: str) -> str:
    return PurePosixPath(location).suffix[1:].lower()
