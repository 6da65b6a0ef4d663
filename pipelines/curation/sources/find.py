"""Finding the inputs: folders, globs, S3 prefixes, manifests (CSV, JSONL, Parquet) and WebDataset tars."""

import fnmatch
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.curation.records import Kind, Source
from pipelines.curation.sources.account import Account
from pipelines.curation.sources.folders import Folders, levels, stamped
from pipelines.curation.sources.in_order import in_order
from pipelines.curation.sources.manifests import EXTENSIONS as MANIFESTS
from pipelines.curation.sources.manifests import InputError as InputError
from pipelines.curation.sources.manifests import read_manifest
from pipelines.curation.sources.tars import copy_member, is_tar, sources_in_tar
from pipelines.curation.sources.user_captions import with_user_captions
from pipelines.dataset.tables import Row
from skyreels import storage
from skyreels.listing import Why
from skyreels.locations import local_path, printable, spelled
from skyreels.storage import FileEntry

logger = logging.getLogger(__name__)

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
_SIDECARS = ("txt", "json")
_MARKS = "*?["
_OWN = ("pool", "layers", "datasets")  # what curation writes below its output, known by the plan in its pool
_PLAN = "pool/_plan"
_AT_ONCE = 1 << 16
_LOOKED_AT, _READERS = 1 << 10, 16


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
            known = found.get(source.source_id)
            found[source.source_id] = _told_of_again(known, source) if known else source
    ordered = sorted(found.values(), key=lambda source: (source.uri, source.source_id))
    return _told(ordered, Folders())


def stream_sources(inputs: Sequence[str], account: Account) -> Iterator[list[Source]]:
    """The same in lists of some ten thousand, in the same order. Held are one of these, what `in_order` holds and the
    names of one folder; of a local folder or a glob, and of several remote folders, all names."""
    location = storage.normalise(inputs[0]) if len(inputs) == 1 else ""
    if storage.is_remote(location) and not storage.is_file(location) and storage.exists(location):
        found: Iterator[Source] = (_named(source, location) for source in _below_in_order(location, account))
    else:
        found = in_order((source for item in inputs for source in _sources_in(item, account)), _told_of_again)
    folders = Folders()
    while some := list(islice(found, _AT_ONCE)):
        yield _told(some, folders)
        folders.forget_all_but(_folder(some[-1].container or some[-1].uri))


def _told(sources: Sequence[Source], folders: Folders) -> list[Source]:
    """With when they were written to and what is said of them."""
    dated = stamped([(source, source.container or source.uri) for source in sources], folders)
    return with_user_captions(list(dated), folders)


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
        copy_member(source, scratch, path)
        yield path
    finally:
        path.unlink(missing_ok=True)


def is_there(source: Source) -> bool:
    """Whether the file that holds the source can be found."""
    return storage.exists(source.container or source.uri)


def _plainly_named(path: Path, scratch: Path, source: Source) -> Path:
    """The path, or a link to it where its bytes are no text: decoders take names as UTF-8."""
    if spelled(str(path)) == str(path):
        return path
    scratch.mkdir(parents=True, exist_ok=True)
    link = scratch / f"link-{source.source_id}"
    link.unlink(missing_ok=True)
    link.symlink_to(path)
    return link


def _told_of_again(before: Source, now: Source) -> Source:
    """A source that several rows or inputs name: all that they say holds; of what contradicts, the later."""
    differ = sorted(name for name, value in now.meta.items() if before.meta.get(name, value) != value)
    if differ:
        logger.warning("%s is described twice, and not alike: %s; the later is used", now.uri, ", ".join(differ))
    return before.model_copy(update={"meta": before.meta | now.meta, "manifest": now.manifest or before.manifest})


def _sources_in(item: str, account: Account) -> Iterator[Source]:
    """The sources of one input, each named relative to it."""
    if not item.strip():
        raise InputError("an --input is empty, as of a variable that is not set: give a folder, a file, a glob, s3://…")
    location = storage.normalise(item)
    if storage.is_file(location):
        base = _folder(location)
        if _extension(location) in MANIFESTS:
            sources = _in_manifest(location, account)
        else:
            sources = _file(storage.list_files(location)[0], {}, account)
    elif storage.exists(location):
        base, sources = location, _media_of(_listed(location, account), account)
    elif any(mark in item for mark in _MARKS):
        base, sources = _in_glob(item, account)
    else:
        known = "give a folder, a file, a glob, s3://…, a manifest or a tar"
        raise InputError(f"{printable(item)} does not exist: {known}")
    for source in sources:
        yield _named(source, base)


def _named(source: Source, base: str) -> Source:
    return source.model_copy(update={"name": printable(_below(source.uri, base))})


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
        return base, (source for entry in files for source in _file(entry, {}, account))
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


def _below_in_order(location: str, account: Account) -> Iterator[Source]:
    """The media below a remote folder in order of location; sidecars are told by the files beside them."""
    for piece, beside in levels(location, _own_in):
        account.skip(piece.skipped)
        yield from _media_of(piece.files, account, beside)


def _own_in(folder: str, names: Collection[str]) -> Collection[str]:
    """What curation wrote to a remote folder."""
    return _OWN if "pool" in names and storage.exists(f"{folder}/{_PLAN}") else ()


def _own_below(folder: str, names: Collection[str]) -> Collection[str]:
    """What curation wrote to a folder."""
    return _OWN if "pool" in names and os.path.isdir(f"{folder}/{_PLAN}") else ()


def _media_of(
    files: Sequence[FileEntry], account: Account, beside: Sequence[FileEntry] | None = None
) -> Iterator[Source]:
    """What has the name of media, or is a tar; the account is told of the others. `beside`: all files of the folder,
    where these are some."""
    stems = {_stem(entry.location) for entry in (beside or files) if _is_media(entry.location)}
    for entry in files:
        if _is_media(entry.location):
            yield from _file(entry, {}, account)
        elif _extension(entry.location) in _SIDECARS and _stem(entry.location) in stems:
            account.sidecars += 1
        else:
            account.pass_over(entry.location)


def _in_manifest(location: str, account: Account) -> Iterator[Source]:
    for (where, target, meta), entries in _looked_at(read_manifest(location)):
        if entries and entries[0].location != target:
            raise InputError(f"{where}: {target} is a folder; name its files, or give the folder as --input")
        for source in _file(FileEntry(target, entries[0].size if entries else 0), meta, account):
            yield source.model_copy(update={"manifest": location})


def _looked_at(rows: Iterator[tuple[str, str, Row]]) -> Iterator[tuple[tuple[str, str, Row], list[FileEntry]]]:
    """The rows of a manifest with what lies where they say, which a store far away is asked for many of at a time."""

    def look(row: tuple[str, str, Row]) -> list[FileEntry]:
        try:
            return storage.list_files(row[1])
        except storage.StorageError as error:
            raise InputError(f"{row[0]}: {error}") from error

    with ThreadPoolExecutor(_READERS) as readers:
        while some := list(islice(rows, _LOOKED_AT)):
            yield from zip(some, readers.map(look, some), strict=True)


def _file(entry: FileEntry, meta: dict[str, Any], account: Account) -> Iterator[Source]:
    """A file that was named, or that has the name of media: what its suffix does not tell is left to the probe."""
    if is_tar(entry.location):
        for source in sources_in_tar(entry.location, entry.size, _kind_of, account):
            yield source.model_copy(update={"meta": source.meta | meta})
    else:
        yield Source.at(entry.location, _kind_of(entry.location) or Kind.VIDEO, entry.size, meta)


def _kind_of(name: str) -> Kind | None:
    return EXTENSIONS.get(_extension(name))


def _below(location: str, base: str) -> str:
    """A location relative to a folder; one elsewhere by its last part, or whole where no machine's path is in it."""
    if storage.is_remote(location):
        return location.removeprefix(f"{base}/")
    path, folder = str(local_path(location)), str(local_path(base)).rstrip("/")
    return path[len(folder) + 1 :] if path.startswith(f"{folder}/") else path.rpartition("/")[2]


def _real(location: str) -> str:
    return location if storage.is_remote(location) else os.path.realpath(local_path(location))


def _is_media(location: str) -> bool:
    return _kind_of(location) is not None or is_tar(location)


def _folder(location: str) -> str:
    return location.rpartition("/")[0]


def _stem(location: str) -> str:
    """The location without its suffix."""
    return location[: -len(_extension(location)) - 1]


def _extension(location: str) -> str:
    return PurePosixPath(location).suffix[1:].lower()
