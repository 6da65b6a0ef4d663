"""What lies below a local folder: every file once, whatever it is called, and what was not taken and why."""

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from enum import StrEnum


class Why(StrEnum):
    """Why an entry of a folder is not among the files."""

    HIDDEN = "hidden"  # a leading dot
    LEFT_OUT = "left out"  # the caller said so
    SPECIAL = "not a file"  # a pipe, a socket, a device
    BROKEN_LINK = "a link that leads nowhere"
    UNREADABLE = "cannot be read"


@dataclass(frozen=True)
class Skipped:
    """An entry that is not among the files; `detail` is what the system said."""

    path: str
    why: Why
    detail: str = ""


@dataclass
class Listing:
    """Path and size of every file, and all that was passed by; both sorted by path."""

    files: list[tuple[str, int]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


LeaveOut = Callable[[str, Collection[str]], Collection[str]]


def _nothing(folder: str, names: Collection[str]) -> Collection[str]:
    return ()


def walk(root: str, leave_out: LeaveOut = _nothing) -> Listing:
    """Every file below `root`. A folder is entered once, however many links lead to it, and first by its own name.

    `leave_out(folder, names)` tells which of a folder's entries are not to be looked at.
    """
    listing = Listing()
    seen: set[tuple[int, int]] = set()
    folders = [root]
    links: list[str] = []
    while folders or links:
        if not folders:  # links last: what they lead to has a name of its own if it lies below `root`
            links.sort(reverse=True)
            folders.append(links.pop())
        folder = folders.pop()
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            listing.skipped.append(Skipped(folder, Why.UNREADABLE, _said(error)))
            continue
        left_out = leave_out(folder, {entry.name for entry in entries})
        for entry in entries:
            if entry.name.startswith("."):
                listing.skipped.append(Skipped(entry.path, Why.HIDDEN))
            elif entry.name in left_out:
                listing.skipped.append(Skipped(entry.path, Why.LEFT_OUT))
            else:
                _sort(entry, listing, folders, links)
    listing.files.sort()
    listing.skipped.sort(key=lambda skipped: skipped.path)
    return listing


def _sort(entry: os.DirEntry[str], listing: Listing, folders: list[str], links: list[str]) -> None:
    """Put an entry where it belongs."""
    try:
        if entry.is_dir():
            (links if entry.is_symlink() else folders).append(entry.path)
        elif entry.is_file():
            listing.files.append((entry.path, entry.stat().st_size))
        elif entry.is_symlink() and not os.path.exists(entry.path):
            listing.skipped.append(Skipped(entry.path, Why.BROKEN_LINK, f"to {os.readlink(entry.path)}"))
        else:
            listing.skipped.append(Skipped(entry.path, Why.SPECIAL))
    except OSError as error:
        listing.skipped.append(Skipped(entry.path, Why.UNREADABLE, _said(error)))


def _said(error: OSError) -> str:
    return error.strerror or str(error)


def unreadable(listing: Listing) -> Iterator[Skipped]:
    """What may hold files that nobody saw."""
    return (skipped for skipped in listing.skipped if skipped.why is Why.UNREADABLE)
