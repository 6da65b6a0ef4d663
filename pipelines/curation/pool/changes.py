"""Sources that are not as an earlier run saw them: other bytes, or other words about them.

A file is taken to have other bytes where its size differs, or where it was written to since and its SHA-256 differs.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipelines.curation.pool import tables
from pipelines.curation.records import Source
from pipelines.curation.sources.find import opened
from pipelines.dataset.tables import Row
from skyreels.commits import CommitLog
from skyreels.leftovers import scratch_folder
from skyreels.storage import DamageError, Storage, sha256_file

logger = logging.getLogger(__name__)

_BESIDE = ("json", "txt")
_READERS = 4


@dataclass(frozen=True)
class Changes:
    """`content`: to be measured and cut again. `described`: as they are now, with other words or another time."""

    content: list[Source]
    described: list[Source]


def find_changes(known: dict[str, Source], now: Iterable[Source], part_of: Mapping[str, str], pool: Storage) -> Changes:
    """Compare sources with what is `known` of them; `part_of` has the committed part of each that has one.

    A source that is in no committed part yet is read when its part is, whatever it holds by then.
    """
    seen = [_with_manifest(known[source.source_id], source) for source in now if source.source_id in known]
    committed = [source for source in seen if source.source_id in part_of]
    other = [source for source in committed if source.size != known[source.source_id].size]
    dated = [
        source
        for source in committed
        if source.size == known[source.source_id].size and _is_later(known[source.source_id], source)
    ]
    content = other + _rewritten(dated, part_of, pool)
    content += _joined_with(content, known | {source.source_id: source for source in seen}, part_of, pool)
    described = [source for source in seen if source != known[source.source_id]]
    _tell(content, [source for source in described if source.meta != known[source.source_id].meta])
    return Changes(content, described)


def _with_manifest(known: Source, now: Source) -> Source:
    """What a manifest said holds until that or another one says otherwise: not every run names it."""
    if now.manifest or not known.manifest:
        return now
    columns = {name: value for name, value in known.meta.items() if name[0] != "_" and name not in _BESIDE}
    said = [caption for caption in known.meta.get("_captions", ()) if caption.get("origin") == "manifest"]
    captions = [*said, *now.meta.get("_captions", ())]
    meta = {**columns, **now.meta, **({"_captions": captions} if captions else {})}
    return now.model_copy(update={"manifest": known.manifest, "meta": meta})


def _is_later(known: Source, now: Source) -> bool:
    return bool(known.modified_ns and now.modified_ns and known.modified_ns != now.modified_ns)


def _rewritten(dated: Sequence[Source], part_of: Mapping[str, str], pool: Storage) -> list[Source]:
    """Those whose bytes are not the ones that were read."""
    if not dated:
        return []
    was = _hashes(pool, {part_of[source.source_id] for source in dated})
    with scratch_folder("hash") as folder, ThreadPoolExecutor(_READERS) as readers:
        is_now = list(readers.map(lambda item: _hash(item[1], folder / str(item[0])), enumerate(dated)))
    return [source for source, sha256 in zip(dated, is_now, strict=True) if sha256 != was.get(source.source_id)]


def _joined_with(
    content: Sequence[Source], known: Mapping[str, Source], part_of: Mapping[str, str], pool: Storage
) -> list[Source]:
    """The other sources of the joined clips that these have a piece in."""
    changed = {source.source_id for source in content}
    others: set[str] = set()
    for part in sorted({part_of[source_id] for source_id in changed}):
        for row in _rows(pool, part, "clips/", ["parts"]):
            joined = {source_id for source_id, _, _ in json.loads(row["parts"])}
            others |= joined if joined & changed else set()
    return [known[source_id] for source_id in sorted(others - changed)]


def _hash(source: Source, scratch: Path) -> str:
    """Empty where the file cannot be read: measuring it again will say why."""
    try:
        with opened(source, scratch) as path:
            return sha256_file(path)
    except OSError:
        return ""


def _hashes(pool: Storage, parts: Iterable[str]) -> dict[str, str]:
    """SHA-256 of every source of these parts, as they were read; empty for one that could not be."""
    found: dict[str, str] = {}
    for part in sorted(parts):
        rows = _rows(pool, part, "sources/", ["source_id", "sha256"])
        found |= {row["source_id"]: row["sha256"] for row in rows}
    return found


def _rows(pool: Storage, part: str, folder: str, columns: list[str]) -> list[Row]:
    """Of a part's table; none, with a warning, where it cannot be read: what it was made of is not known then."""
    log = CommitLog(pool)
    try:
        rows: list[Row] = tables.committed(log, log.read(part), folder).select(columns).to_pylist()
    except DamageError as error:
        logger.warning("its sources that were written to since are cut again: %s", error)
        return []
    return rows


def _tell(content: Sequence[Source], described: Sequence[Source]) -> None:
    for sources, what in ((content, "changed and will be cut again"), (described, "described differently now")):
        if sources:
            more = f" and {len(sources) - 1} more" if len(sources) > 1 else ""
            logger.info("%s: %s%s", what, sources[0].uri, more)
