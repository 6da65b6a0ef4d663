"""Take-down: rewrite everything in the pool and the layers that holds a source, so that its bytes are gone.

Each part is rewritten under new names, committed, and only then are the old files deleted: a kill at any point
leaves the part as it was or as it shall be, and the same take-down run again finishes.
"""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.curation.pool import tables
from pipelines.curation.pool.films.steps import forget_sources
from pipelines.curation.records import DAMAGE_REMEDY, Rejection
from pipelines.dataset.tables import Row, encode, encode_members, members_of
from skyreels.commits import Commit, CommitLog, CommittedFile, describe
from skyreels.shards import open_shards, read_member
from skyreels.storage import DamageError, Storage


def purge_sources(root: Storage, source_ids: frozenset[str]) -> None:
    """Remove these sources' clips from every pool part and their answers from every layer."""
    pool = root.sub("pool")
    forget_sources(pool, source_ids)
    log = CommitLog(pool)
    touched = [commit for commit in log.all() if source_ids & commit.facts["sources"].keys()]
    gone = clips_of(root, source_ids)
    for name in _layer_names(root):  # before the pool, which alone knows whose clips the answers are
        _purge_layer(root.sub(f"layers/{name}"), gone)
    for commit in touched:
        _purge_part(pool, log, commit, source_ids)
    for folder in ("shards", "clips", "sources"):
        for name in log.orphans(folder):
            pool.delete(name)


@dataclass(frozen=True)
class Clips:
    """The clips of some sources: those that the pool names, and all whose keys say it, should its commit be lost."""

    source_ids: frozenset[str]
    keys: frozenset[str]

    def __contains__(self, key: str) -> bool:
        return key in self.keys or key.rpartition("_")[0] in self.source_ids


def clips_of(root: Storage, source_ids: frozenset[str]) -> Clips:
    """Of these sources, or joined with sound of theirs."""
    pool = root.sub("pool")
    commits = [commit for commit in CommitLog(pool).all() if source_ids & commit.facts["sources"].keys()]
    keys = {row["key"] for commit in commits for row in _clips(pool, commit) if _touches(row, source_ids)}
    return Clips(source_ids, frozenset(keys))


def purge_unfinished(dataset: Storage, gone: Clips) -> None:
    """Remove the packs of a dataset that was never finished which hold such clips, and all that no commit names.

    The run that finishes it writes what is missing.
    """
    log = CommitLog(dataset)
    for commit in list(log.all()):
        if any(key in gone for key in commit.keys):
            log.revoke(commit.part_id)
    for name in log.orphans("shards"):
        dataset.delete(name)


def _purge_part(pool: Storage, log: CommitLog, commit: Commit, source_ids: frozenset[str]) -> None:
    """Rewrite one part without the sources."""
    revision = int(commit.facts.get("revision", 0)) + 1
    name = f"{commit.part_id}-r{revision}"
    rows = []
    with open_shards(pool, f"shards/{name}") as shards:
        for row in _clips(pool, commit):
            if _touches(row, source_ids):
                continue
            try:
                held = {ext: read_member(pool, member) for ext, member in members_of(row).items()}
            except DamageError as error:  # a neighbour's damage must not keep anything from being taken down
                held = {}
                why = Rejection(stage="pool", reason="damaged", remedy=DAMAGE_REMEDY, detail=str(error))
                row |= tables.rejection_columns(why)
            if held:
                shards.add(row["key"], held)
            rows.append(row | {"members": encode_members(shards.members.get(row["key"], {}))})
    sources = committed_table(pool, commit, "sources/")
    sources = sources.filter(pc.invert(pc.is_in(sources.column("source_id"), pa.array(sorted(source_ids)))))
    files = [*shards.files]
    for folder, table in (("clips", tables.clip_table(rows)), ("sources", sources)):
        files.append(_write_table(pool, f"{folder}/{name}.parquet", table))
    remaining = {key: value for key, value in commit.facts["sources"].items() if key not in source_ids}
    facts = {**commit.facts, "revision": revision, "sources": remaining}
    log.commit(Commit(part_id=commit.part_id, files=tuple(files), facts=facts))


def _purge_layer(store: Storage, gone: Clips) -> None:
    log = CommitLog(store)
    for commit in list(log.all()):
        touched = [key for key in (*commit.keys, *commit.facts["failed"]) if key in gone]
        if not touched:
            continue
        revision = int(commit.facts.get("revision", 0)) + 1
        table = committed_table(store, commit, "parts/")
        left = table.filter(pc.invert(pc.is_in(table.column("key"), pa.array(touched))))
        file = _write_table(store, f"parts/{commit.part_id}-r{revision}.parquet", left)
        file = file.model_copy(update={"keys": tuple(key for key in commit.keys if key not in gone)})
        failed = {key: why for key, why in commit.facts["failed"].items() if key not in gone}
        made_of = {key: digest for key, digest in commit.facts.get("made_of", {}).items() if key not in gone}
        facts = {**commit.facts, "revision": revision, "failed": failed, "made_of": made_of}
        log.commit(Commit(part_id=commit.part_id, files=(file,), facts=facts))
    for name in log.orphans("parts"):
        store.delete(name)


def _touches(row: Row, source_ids: frozenset[str]) -> bool:
    """Whether a clip is of one of the sources, or was joined from one."""
    return row["source_id"] in source_ids or any(source in str(row["parts"]) for source in source_ids)


def _clips(pool: Storage, commit: Commit) -> list[Row]:
    return committed_table(pool, commit, "clips/").to_pylist()


def committed_table(store: Storage, commit: Commit, prefix: str) -> pa.Table:
    """A part's table. Raises DamageError: what it holds would be left in place unseen."""
    try:
        return tables.committed(CommitLog(store), commit, prefix)
    except DamageError as error:
        raise DamageError(f"{error}: {DAMAGE_REMEDY}, then take the source down again") from error


def _write_table(store: Storage, name: str, table: pa.Table) -> CommittedFile:
    with store.staged(name) as path:
        path.write_bytes(encode(table))
        return describe(name, path)


def _layer_names(root: Storage) -> list[str]:
    return sorted({name.split("/")[1] for name in root.names("layers")})
