"""Packs: deterministic, resumable to the same bytes, and only new clips make new ones."""

import json
from types import MappingProxyType

import pytest

from pipelines.curation import packing
from pipelines.curation.pool import tables
from pipelines.curation.recipe import ShardConfig
from pipelines.curation.records import Clip, Kind
from pipelines.dataset.tables import encode, encode_members, members_of
from skyreels.commits import Commit, CommitLog, digest, stable_json, verify
from skyreels.shards import open_shards, read_member
from skyreels.storage import Storage

CONFIG = ShardConfig(pack_bytes=2500, max_bytes=1 << 20)
KEYS = [f"k{i:02d}" for i in range(10)]


@pytest.fixture
def pool(tmp_path):
    store = Storage(str(tmp_path / "pool"))
    with open_shards(store, "shards/p") as shards:
        for i, key in enumerate(KEYS):
            shards.add(key, {"mp4": bytes([i]) * 700, "flac": bytes([100 + i]) * 100, "f0.jpg": b"frame"})
    return store, {key: encode_members(files) for key, files in shards.members.items()}


def _chosen(keys, said):
    return {
        key: {
            "key": key,
            "bucket": "a" if int(key[1:]) % 2 else "b",
            "bytes": 800,
            "content": digest({"key": key} | said.get(key, {})),
        }
        for key in keys
    }


def _write(keys, pool, dataset, identity="i", limit=None, said=MappingProxyType({})):
    """`said`: more of the json of some samples."""
    store, members = pool
    plan = packing.plan_packs(_chosen(keys, said), identity, dataset, CONFIG)
    samples = {k: [k, members_of({"members": members[k]}), {"key": k} | said.get(k, {})] for k in keys}
    for pack in plan.remaining(dataset)[:limit]:
        packing.write_pack(pack, [tuple(samples[k]) for k in pack.keys], identity, store, dataset, CONFIG)
    return plan


def _finish(plan, dataset):
    rows = [{"key": key, "pack_id": pack.pack_id} for pack in plan.packs for key in pack.keys]
    dataset.write("manifest.parquet", encode(tables.clip_table(rows)))
    packing.drop_stale(dataset, plan)


def _checksums(dataset):
    return {file.name: file.sha256 for commit in CommitLog(dataset).all() for file in commit.files}


def test_packs_hold_every_clip_once_by_bucket(pool, tmp_path):
    dataset = Storage(str(tmp_path / "d"))
    plan = _write(KEYS, pool, dataset)
    assert sorted(key for pack in plan.packs for key in pack.keys) == KEYS
    assert all(len({int(key[1:]) % 2 for key in pack.keys}) == 1 and len(pack.keys) <= 3 for pack in plan.packs)
    commits = list(CommitLog(dataset).all())
    assert [verify(dataset, commit) for commit in commits] == [[]] * len(commits)
    files = next(commit.facts["members"]["k03"] for commit in commits if "k03" in commit.keys)
    assert sorted(files) == ["flac", "json", "mp4"]
    member = members_of({"members": stable_json(files)})
    assert read_member(dataset, member["mp4"]) == bytes([3]) * 700
    assert read_member(dataset, member["json"]) == b'{"key":"k03"}'


@pytest.mark.parametrize("written", range(5))
def test_an_interrupted_packing_ends_with_the_same_bytes(pool, tmp_path, written):
    whole, broken = Storage(str(tmp_path / "whole")), Storage(str(tmp_path / "broken"))
    _write(KEYS, pool, whole)
    _write(KEYS, pool, broken, limit=written)
    _write(KEYS, pool, broken)
    assert _checksums(broken) == _checksums(whole)


def test_new_clips_leave_old_packs_alone(pool, tmp_path):
    dataset = Storage(str(tmp_path / "d"))
    _finish(_write(KEYS[:6], pool, dataset), dataset)
    before = _checksums(dataset)
    plan = _write(KEYS, pool, dataset)
    _finish(plan, dataset)
    assert before.items() <= _checksums(dataset).items()
    assert sorted(key for pack in plan.packs for key in pack.keys) == KEYS


def test_a_clip_that_leaves_takes_its_pack_along_and_nothing_stale_stays(pool, tmp_path):
    dataset = Storage(str(tmp_path / "d"))
    _finish(_write(KEYS, pool, dataset), dataset)
    _finish(_write(KEYS[1:], pool, dataset), dataset)
    held = sorted(key for commit in CommitLog(dataset).all() for key in commit.keys)
    assert held == KEYS[1:]
    assert sorted(dataset.names("shards")) == sorted(_checksums(dataset))
    assert len(dataset.names("_packs")) == 1


def test_another_identity_packs_anew(pool, tmp_path):
    dataset = Storage(str(tmp_path / "d"))
    _finish(_write(KEYS, pool, dataset, identity="old captions"), dataset)
    before = _checksums(dataset)
    _finish(_write(KEYS, pool, dataset, identity="new captions"), dataset)
    assert not before.keys() & _checksums(dataset).keys()


def test_what_is_said_of_a_clip_packs_it_anew_and_leaves_the_other_packs_alone(pool, tmp_path):
    dataset = Storage(str(tmp_path / "d"))
    _finish(_write(KEYS, pool, dataset), dataset)
    before = _checksums(dataset)
    plan = _write(KEYS, pool, dataset, said={"k03": {"caption": "new words"}})
    _finish(plan, dataset)
    commits = list(CommitLog(dataset).all())
    member = next(commit.facts["members"]["k03"]["json"] for commit in commits if "k03" in commit.keys)
    place = members_of({"members": stable_json({"json": member})})["json"]
    assert json.loads(read_member(dataset, place)) == {"key": "k03", "caption": "new words"}
    assert len(before.items() & _checksums(dataset).items()) == len(before) - 1


def _clip(source, index=0, **changes):
    clip = Clip(key=f"{source}_{index:05d}", source_id=source, kind=changes.pop("kind", Kind.VIDEO),
                start_s=4.0 * index, end_s=4.0 * index + 4, **changes)  # fmt: skip
    return tables.clip_rows("part", [clip], {})[0]


def test_the_manifest_says_where_each_file_of_a_sample_lies():
    chosen = {clip["key"]: clip | {"bucket": "b", "embedding": [1.0]} for clip in (_clip("b"), _clip("a"))}
    members = {"a_00000": {"mp4": ["shards/p-0.tar", 512, 9]}, "b_00000": {"mp4": ["shards/p-1.tar", 0, 4]}}
    commits = [Commit(part_id="p", files=(), facts={"members": members})]
    captions = {"a_00000": {"key": "a_00000", "short": "A fox.", "error": None}}
    table = packing.manifest_table(chosen, captions, [packing.Pack("p", "b", tuple(sorted(chosen)))], commits)
    first, second = table.to_pylist()
    assert (first["key"], first["pack_id"], first["shard"]) == ("a_00000", "p", "shards/p-0.tar")
    assert json.loads(second["members"]) == members["b_00000"]
    assert (first["caption_short"], second["caption_short"]) == ("A fox.", None)
    assert "embedding" not in table.column_names


def test_a_sample_s_json_tells_what_is_known_and_keeps_the_inner_workings_out():
    clip = _clip("a", parts=[("a", 0.0, 1.0)]) | {
        "bucket": "b",
        "uri": "/in/a",
        "name": "films/a.mp4",
        "sha256": "h",
        "embedding": [1.0],
    }
    clip |= {"meta": '{"licence": "CC0", "_offset": 5}', "visual.sharpness": 0.6, "audio.snr_db": None}
    made_by = {"caption_model": "/models/Qwen-7B", "embedding": {"model": "local-dir:/m/x/", "pretrained": "laion/b"}}
    said = packing.sample_json(clip, {"key": "a_00000", "error": None, "short": "A fox."}, made_by)
    assert said["captions"] == {"short": "A fox."}
    assert said["scores"] == {"visual.sharpness": 0.6}
    assert said["source"]["meta"] == {"licence": "CC0"}
    assert said["source"]["parts"] == [["a", 0.0, 1.0]]
    assert said["seconds"] == pytest.approx(4.0)
    assert "embedding" not in said["scores"]
    assert said["source"]["uri"] == "films/a.mp4", "no path of this machine"
    assert said["provenance"] == {
        "caption_model": "Qwen-7B",
        "embedding": {"model": "local-dir:x/", "pretrained": "laion/b"},
    }
