"""Compaction: the clips that were chosen, packed by bucket into the shards that a trainer reads, and their rows.

    <output>/datasets/<name>/{shards/<bucket>/, _commits/, _packs/}

A pack is a part of the commit protocol: its keys are planned and stored before any work, so an interrupted
packing resumes with the same packs and ends with the same bytes. Packs of an earlier run whose clips are all
still chosen, and would be written as they were, stay as they are; new and changed clips go into new packs.
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from pipelines.curation.pool import tables
from pipelines.curation.recipe import ShardConfig
from pipelines.dataset.manifest import MANIFEST
from pipelines.dataset.parts_of_table import column_between, is_there
from pipelines.dataset.tables import Row, members_of
from skyreels import parts
from skyreels.commits import Commit, CommitLog, digest, stable_json
from skyreels.shards import Member, open_shards, read_member
from skyreels.storage import DamageError, Storage

logger = logging.getLogger(__name__)

_SAMPLE_FILES = ("mp4", "flac", "jpg")  # of the pool's files, what a training sample keeps; json is written here
_FOLDERS = re.compile(r"(^|:)(?:/|~/|\./|\.\./)(?:[^/]*/)*(?=[^/])")  # of a path, all but its last part
_INTERNAL = frozenset({"members", "embedding", "stage", "reason", "remedy", "detail", "bytes", "made_of"})


@dataclass(frozen=True)
class Pack:
    """Keys of one bucket that are written by one task."""

    pack_id: str
    bucket: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class PackPlan:
    """All packs of a dataset, and the name under which the plan is stored."""

    name: str
    packs: tuple[Pack, ...]

    def remaining(self, dataset: Storage) -> list[Pack]:
        """The packs that are not committed, or whose shards are not there as committed."""
        intact = {commit.part_id for commit in CommitLog(dataset).intact_of(pack.pack_id for pack in self.packs)}
        return [pack for pack in self.packs if pack.pack_id not in intact]


class PackDamaged(DamageError):
    """Clips of a pack that cannot be read from the pool: key -> what is wrong."""

    def __init__(self, clips: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{key}: {why}" for key, why in clips.items()))
        self.clips = dict(clips)


def plan_packs(chosen: Mapping[str, Row], identity: str, dataset: Storage, config: ShardConfig) -> PackPlan:
    """The packs for these clips (key -> row with `bucket`, `bytes`, `content`), stored so that a resume finds the same.

    `content` is the digest of a sample's json, which names all that it was made of (source, span, captions). Packs
    that hold other content, or were made under another `identity` (recipe, shard sizes), are not kept.
    """
    content = {key: row["content"] for key, row in chosen.items()}
    name = f"_packs/{hashlib.blake2b(stable_json([content, identity]), digest_size=10).hexdigest()}.json"
    if dataset.exists(name) and (stored := _stored(dataset, name)) is not None:
        return stored
    kept = [pack for pack, held in _current_packs(dataset, identity, content) if held.items() <= content.items()]
    placed = {key for pack in kept for key in pack.keys}
    packs = kept + _grouped([row for key, row in sorted(chosen.items()) if key not in placed], identity, config)
    described = [{"pack_id": pack.pack_id, "bucket": pack.bucket, "keys": pack.keys} for pack in packs]
    dataset.write(name, stable_json(described))
    return PackPlan(name, tuple(packs))


def kept_keys(dataset: Storage) -> frozenset[str]:
    """Keys of the last finished dataset."""
    listed = _listed(dataset, "key")
    if listed is not None:
        return frozenset(listed)
    finished = is_there(dataset, MANIFEST)
    return frozenset(key for commit in CommitLog(dataset).all() for key in commit.keys) if finished else frozenset()


def kept_between(dataset: Storage, first: str, last: str) -> frozenset[str]:
    """Those of them between two keys."""
    if not is_there(dataset, MANIFEST):
        return frozenset()
    try:
        return frozenset(column_between(dataset, MANIFEST, "key", first, last))
    except DamageError:
        return frozenset(key for key in kept_keys(dataset) if first <= key <= last)


def write_packs(
    packs: Sequence[Pack],
    samples: Mapping[str, Row],
    identity: str,
    pool: Storage,
    dataset: Storage,
    config: ShardConfig,
    run: Callable[..., Iterator[parts.Outcome]] = parts.run_parts,
) -> Iterator[int | PackDamaged]:
    """Write these packs, one Ray task each unless `run` does otherwise; yields clips written as packs are committed,
    and packs that hold clips which cannot be read. Raises Incomplete, when all the others are written, where the store
    failed.

    `samples` gives per key the `members` in the pool and the `json` of the finished sample.
    """
    todo = [
        parts.Part(
            pack.pack_id,
            stable_json([pack.bucket, [[k, samples[k]["members"], samples[k]["json"]] for k in pack.keys]]).decode(),
        )
        for pack in packs
    ]
    make_worker = partial(_Packer, identity, pool.root, dataset.root, config)
    for outcome in parts.committed(run(todo, make_worker), dataset.root):
        damaged = outcome.facts["damaged"]
        yield PackDamaged(damaged) if damaged else int(outcome.facts["clips"])


def write_pack(
    pack: Pack,
    samples: Sequence[tuple[str, Mapping[str, Member], Row]],
    identity: str,
    pool: Storage,
    dataset: Storage,
    config: ShardConfig,
) -> None:
    """One pack: its shards, then its commit. Raises PackDamaged for clips whose bytes are not those of the pool."""
    prefix = f"shards/{pack.bucket}/{pack.pack_id}"
    damaged: dict[str, str] = {}
    with open_shards(dataset, prefix, max_bytes=config.max_bytes, max_samples=config.max_samples) as shards:
        for key, members, described in samples:
            try:
                files: dict[str, Any] = {
                    ext: read_member(pool, members[ext]) for ext in _SAMPLE_FILES if ext in members
                }
            except DamageError as error:
                damaged[key] = str(error)
                continue
            shards.add(key, files | {"json": stable_json(described)})
        if damaged:
            raise PackDamaged(damaged)
    facts = {
        "bucket": pack.bucket,
        "identity": identity,
        "contents": {key: digest(described) for key, _, described in samples},
        "members": {key: {ext: member.place for ext, member in files.items()} for key, files in shards.members.items()},
    }
    CommitLog(dataset).commit(Commit(part_id=pack.pack_id, files=tuple(shards.files), facts=facts))


def sample_json(clip: Row, caption: Row | None, provenance: Mapping[str, Any]) -> Row:
    """The `json` of a training sample: what it is, how it sounds and looks in numbers, captions, where it is from.

    No path of this machine is in it: a source is named relative to its input, a model by the last part of its path.
    """
    scores = {name: value for name, value in clip.items() if "." in name and value is not None}
    facts = ("key", "kind", "bucket", "width", "height", "fps", "frames", "has_audio", "speech", "transcript")
    source = {name: clip[name] for name in ("source_id", "sha256", "start_s", "end_s", "crop")}
    source["uri"] = clip["name"]
    source["meta"] = {name: value for name, value in json.loads(clip["meta"]).items() if not name.startswith("_")}
    source["parts"] = json.loads(clip["parts"])
    return {
        **{name: clip[name] for name in facts},
        "seconds": round(clip["end_s"] - clip["start_s"], 6),
        "captions": _captions(caption or {}),
        "scores": scores,
        "source": source,
        "provenance": {name: _without_folders(value) for name, value in provenance.items()},
    }


def manifest_table(
    chosen: Mapping[str, Row], captions: Mapping[str, Row], packs: Sequence[Pack], commits: Iterable[Commit]
) -> pa.Table:
    """One row per sample of the dataset, in order of key: where it lies, its bucket, its scores and captions."""
    pack_of = {key: pack.pack_id for pack in packs for key in pack.keys}
    members = {key: files for commit in commits for key, files in commit.facts["members"].items()}
    rows = []
    for key in sorted(chosen):
        row = {name: value for name, value in chosen[key].items() if name not in _INTERNAL}
        said = {f"caption_{k}": v for k, v in captions.get(key, {}).items() if isinstance(v, str) and k != "key"}
        shard = next(iter(members[key].values()))[0]
        row |= {"pack_id": pack_of[key], "shard": shard, "members": json.dumps(members[key]), **said}
        rows.append(row)
    return tables.clip_table(rows)


def drop_stale(dataset: Storage, *plans: PackPlan) -> None:
    """Remove packs, plans and shards that the finished dataset does not name; call when its manifest is written."""
    log = CommitLog(dataset)
    for pack_id in sorted(log.done() - {pack.pack_id for plan in plans for pack in plan.packs}):
        log.revoke(pack_id)
    named = {plan.name for plan in plans}
    for name in [*log.orphans("shards"), *(name for name in dataset.names("_packs") if name not in named)]:
        dataset.delete(name)


def _captions(caption: Row) -> Row:
    """The forms, whose they are, and in parts with times where they came so (`pipelines/dataset/caption_parts.py`)."""
    said = {name: value for name, value in caption.items() if name not in ("key", "error")}
    return said | ({"parts": json.loads(said["parts"])} if "parts" in said else {})


def _without_folders(made_by: Any) -> Any:
    """What made a sample, with `/models/x` and `local-dir:/models/x` as `x` and `local-dir:x`."""
    if isinstance(made_by, Mapping):
        return {name: _without_folders(value) for name, value in made_by.items()}
    return _FOLDERS.sub(r"\1", made_by) if isinstance(made_by, str) else made_by


def _stored(dataset: Storage, name: str) -> PackPlan | None:
    """A plan of packs that an earlier run wrote down; None, with a warning, where it cannot be read."""
    try:
        stored = json.loads(dataset.read(name))
        return PackPlan(name, tuple(Pack(p["pack_id"], p["bucket"], tuple(p["keys"])) for p in stored))
    except (ValueError, TypeError, KeyError) as error:
        logger.warning("%s is damaged (%s): the packs are planned anew", dataset.location(name), error)
        return None


def _current_packs(dataset: Storage, identity: str, keys: Collection[str]) -> list[tuple[Pack, dict[str, str]]]:
    """Packs of the last finished dataset that clips from the first to the last of `keys` are in, with the content of
    each key; those of an unfinished run are found through their stored plan."""
    if not is_there(dataset, MANIFEST) or not keys:
        return []
    listed = _listed(dataset, "pack_id", min(keys), max(keys))
    log = CommitLog(dataset)
    commits = log.all() if listed is None else log.intact_of(sorted(listed))
    return [
        (Pack(commit.part_id, commit.facts["bucket"], tuple(commit.keys)), commit.facts["contents"])
        for commit in commits
        if commit.facts["identity"] == identity and "contents" in commit.facts
    ]


def _listed(dataset: Storage, column: str, first: str = "", last: str | None = None) -> set[str] | None:
    """What is in a column of the manifest, between two keys. None where there is none; where it is damaged as well,
    with a warning: the packs' commits say the same."""
    if not is_there(dataset, MANIFEST):
        return None
    try:
        return set(column_between(dataset, MANIFEST, column, first, last, "it is written anew"))
    except DamageError as error:
        logger.warning("%s", error)
        return None


def _grouped(rows: Sequence[Row], identity: str, config: ShardConfig) -> list[Pack]:
    by_bucket: dict[str, list[Row]] = {}
    for row in rows:
        by_bucket.setdefault(row["bucket"], []).append(row)
    return [
        _pack(bucket, group, identity) for bucket in sorted(by_bucket) for group in _chunks(by_bucket[bucket], config)
    ]


def _chunks(rows: Sequence[Row], config: ShardConfig) -> Iterator[list[Row]]:
    group: list[Row] = []
    size = 0
    for row in rows:
        if group and size + row["bytes"] > config.pack_bytes:
            yield group
            group, size = [], 0
        group.append(row)
        size += row["bytes"]
    if group:
        yield group


def _pack(bucket: str, rows: Sequence[Row], identity: str) -> Pack:
    named = [[row["key"], row["content"]] for row in rows]
    pack_id = hashlib.blake2b(stable_json([bucket, named, identity]), digest_size=10).hexdigest()
    return Pack(pack_id, bucket, tuple(row["key"] for row in rows))


class _Packer:
    """Writes packs; of one with clips that cannot be read, it says which."""

    def __init__(self, identity: str, pool: str, dataset: str, config: ShardConfig) -> None:
        self._identity, self._config = identity, config
        self._pool, self._dataset = Storage(pool), Storage(dataset)

    def __call__(self, part: parts.Part) -> Row:
        bucket, placed = json.loads(part.work)
        samples = [(key, members_of({"members": members}), described) for key, members, described in placed]
        pack = Pack(part.part_id, bucket, tuple(key for key, _, _ in samples))
        try:
            write_pack(pack, samples, self._identity, self._pool, self._dataset, self._config)
        except PackDamaged as error:
            return {"clips": 0, "damaged": error.clips}
        return {"clips": len(samples), "damaged": {}}
