"""A long film as a local file for one step after another: what has to be fetched or unpacked is so once on a node."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from pipelines.curation.records import Source
from pipelines.curation.sources.find import opened
from pipelines.dataset.node_copies import forget_copy, linked_copy
from skyreels.leftovers import scratch_folder
from skyreels.locations import is_remote, local_path
from skyreels.storage import resolve

MOST = 4
"""Films of which a node keeps a copy, beside those that a step is at."""
_PURPOSE = "films"


@contextmanager
def at_hand(film: Source, scratch: Path) -> Iterator[Path]:
    """`opened`, by way of the node's copy where there is one of the film as it is now. `scratch` lies in TMPDIR."""
    if not film.container and not is_remote(film.uri):
        with opened(film, scratch) as path:
            yield path
        return
    link = scratch / f"film-{film.source_id}"
    linked_copy(link, _PURPOSE, _name(film), partial(_fetch, film), MOST)
    try:
        yield link
    finally:
        link.unlink(missing_ok=True)


def forget(film: Source) -> None:
    """Delete this node's copy of the film."""
    if film.container or is_remote(film.uri):
        with suppress(OSError):  # its name is not to be had: it goes when others are made
            forget_copy(_PURPOSE, _name(film))


def _name(film: Source) -> str:
    """Another one for other bytes, as far as size and time tell."""
    location = film.container or film.uri
    if is_remote(location):
        filesystem, path = resolve(location)
        found = filesystem.get_file_info(path)
        size, written_ns = found.size, found.mtime_ns
    else:
        stat = local_path(location).stat()
        size, written_ns = stat.st_size, stat.st_mtime_ns
    return hashlib.sha256(f"{film.source_id} {size} {written_ns}".encode()).hexdigest()


def _fetch(film: Source, target: Path) -> None:
    with scratch_folder("film") as scratch, opened(film, scratch) as path:
        path.rename(target)
