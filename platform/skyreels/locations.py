"""The spelling of places: every path is text that JSON, Parquet and a terminal can hold.

A location is a path (`/data/out`) or a URI (`s3://bucket/prefix`). A path whose bytes are not UTF-8 is spelled as the
URI that RFC 8089 gives it: `file:///data/caf%E9.mp4`.
"""

import os
import re
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_FILE = "file://"


def is_remote(location: str) -> bool:
    return _SCHEME.match(location) is not None and not location.startswith(_FILE)


def join(location: str, name: str) -> str:
    return f"{location.rstrip('/')}/{name.lstrip('/')}"


def normalise(location: str) -> str:
    """The one spelling of a location: an absolute path without `..`, or a URI as it is."""
    if is_remote(location):
        return location.rstrip("/")
    path = local_path(location)
    path = (path.expanduser() if path.parts[:1] == ("~",) else path).absolute()
    if ".." in path.parts:  # `link/..` is where the link leads to, so that this cannot be done on the words alone
        last = len(path.parts) - path.parts[::-1].index("..")
        path = Path(os.path.realpath(Path(*path.parts[:last])), *path.parts[last:])
    return spelled(str(path))


def spelled(path: str) -> str:
    """A local path as a location."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return _FILE + quote_from_bytes(os.fsencode(path))
    return path


def name_in(folder: str, name: str) -> str:
    """The last part of the location of the file `name` in a folder, which is spelled as the folder is."""
    return quote_from_bytes(os.fsencode(name)) if folder.startswith(_FILE) else name


def local_path(location: str) -> Path:
    """The path that a local location spells."""
    if location.startswith(_FILE):
        return Path(os.fsdecode(unquote_to_bytes(location.removeprefix(_FILE))))
    return Path(location)


def printable(text: str) -> str:
    """A name for a line of text: line ends, control characters and stray bytes are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
