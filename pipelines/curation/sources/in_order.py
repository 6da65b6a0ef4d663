"""Any number of sources in order of location, each once: runs of them are sorted, kept on disk, and merged."""

import errno
import heapq
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from pipelines.curation.records import Source
from skyreels.leftovers import scratch_folder
from skyreels.storage import StorageError

_HELD, _HELD_BYTES = 1 << 16, 64 << 20  # sources of a run, and bytes of what is known of them
_OPEN = 256  # runs that are merged at once

_Line = tuple[str, str, str]
"""Location, id, and the source as JSON."""
_place = itemgetter(0, 1)


def in_order(sources: Iterable[Source], together: Callable[[Source, Source], Source]) -> Iterator[Source]:
    """The sources by location; of those that come again what `together(before, now)` makes, in the order they came in.

    Up to 64 MiB of them are held, the rest is on the machine's temporary disk. Raises StorageError where that is full.
    """
    with scratch_folder("inputs") as folder:
        runs = _Runs(folder)
        for source in sources:
            runs.add((source.uri, source.source_id, source.model_dump_json()))
        for _, again in groupby(runs.merged(), key=_place):
            yield reduce(together, (Source.model_validate_json(text) for _, _, text in again))


class _Runs:
    """Lines in runs, each in order: files, the oldest first, and the last one as it came."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stored: list[Path] = []
        self._held: list[_Line] = []
        self._bytes = 0
        self._count = 0

    def add(self, line: _Line) -> None:
        self._held.append(line)
        self._bytes += len(line[2])
        if len(self._held) >= _HELD or self._bytes >= _HELD_BYTES:
            self._stored.append(self._store(sorted(self._held, key=_place)))
            self._held, self._bytes = [], 0

    def merged(self) -> Iterator[_Line]:
        """All lines in order; those of one place as they came."""
        while len(self._stored) > _OPEN:
            self._stored = [
                self._joined(self._stored[start : start + _OPEN]) for start in range(0, len(self._stored), _OPEN)
            ]
        held = sorted(self._held, key=_place)
        self._held = []
        return heapq.merge(*map(_read, self._stored), held, key=_place)

    def _joined(self, runs: list[Path]) -> Path:
        path = self._store(heapq.merge(*map(_read, runs), key=_place))
        for run in runs:
            run.unlink()
        return path

    def _store(self, lines: Iterable[_Line]) -> Path:
        self._count += 1
        path = self._folder / f"{self._count}"
        try:
            with path.open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(f"{json.dumps(uri)}\t{source_id}\t{text}\n" for uri, source_id, text in lines)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            reason = f"no room in {tempfile.gettempdir()} to sort the inputs: set TMPDIR to a larger disk"
            raise StorageError(error.errno, reason) from error
        return path


def _read(path: Path) -> Iterator[_Line]:
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            uri, source_id, text = line.removesuffix("\n").split("\t", 2)
            yield json.loads(uri), source_id, text
