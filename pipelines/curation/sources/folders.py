"""What lies beside a source and when it was written: each folder is listed once."""

import logging
from collections.abc import Iterator, Sequence

from pipelines.curation.records import Source
from skyreels import storage
from skyreels.listing import LeaveOut, Skipped, Why
from skyreels.storage import FileEntry, Survey

logger = logging.getLogger(__name__)


class Folders:
    """Listings of folders, kept from the first look on."""

    def __init__(self) -> None:
        self._times: dict[str, dict[str, int]] = {}
        self._suffixes: dict[str, dict[str, list[str]]] = {}

    def modified_ns(self, location: str) -> int:
        """When a file was last written to; 0 where that cannot be seen."""
        folder, _, name = location.rpartition("/")
        return self._listed(folder).get(name, 0)

    def suffixes(self, folder: str) -> dict[str, list[str]]:
        """Stem -> what stands behind its last dot, of the files in a folder that are not hidden."""
        if folder not in self._suffixes:
            found: dict[str, list[str]] = {}
            for name in sorted(self._listed(folder)):
                stem, _, suffix = name.rpartition(".")
                if stem and not name.startswith("."):
                    found.setdefault(stem, []).append(suffix)
            self._suffixes[folder] = found
        return self._suffixes[folder]

    def forget_all_but(self, folder: str) -> None:
        for known in (self._times, self._suffixes):
            for name in known.keys() - {folder}:
                del known[name]

    def _listed(self, folder: str) -> dict[str, int]:
        if folder not in self._times:
            try:
                self._times[folder] = storage.times_in(folder)
            except OSError as error:
                logger.warning("what lies beside the files of %s cannot be seen: %s", folder, error)
                self._times[folder] = {}
        return self._times[folder]


def stamped(sources: Sequence[tuple[Source, str]], folders: Folders) -> Iterator[Source]:
    """The sources with the time of their file, which is given with each: itself or its tar."""
    for source, file in sources:
        yield source.model_copy(update={"modified_ns": folders.modified_ns(file)})


def levels(location: str, leave_out: LeaveOut) -> Iterator[tuple[Survey, list[FileEntry]]]:
    """`storage.survey` of a remote folder in pieces: together the same files in the same order, never all of them.

    Beside each piece all files of the folder that it is from.
    """
    files, folders = storage.list_level(location)
    out = leave_out(location, [_name(folder) for folder in folders])
    held = Survey([], [])
    for here, entry in sorted([(entry.location, entry) for entry in files] + [(f"{name}/", None) for name in folders]):
        name = _name(here.rstrip("/"))
        if name.startswith("."):
            inside = [entry] if entry else storage.list_files(here)
            held.skipped.extend(Skipped(one.location, Why.HIDDEN) for one in inside)
        elif entry:
            held.files.append(entry)
        elif name in out:
            held.skipped.append(Skipped(here.rstrip("/"), Why.LEFT_OUT))
        else:
            yield held, files
            held = Survey([], [])
            yield from levels(here.rstrip("/"), leave_out)
    yield held, files


def _name(location: str) -> str:
    return location.rpartition("/")[2]
