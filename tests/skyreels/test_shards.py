"""Shards: byte-identical, readable by others, addressable, and strict about keys."""

import tarfile

import pytest
import webdataset as wds

from skyreels.shards import ShardError, open_shards, read_member
from skyreels.storage import DamageError, Storage, sha256_file

SAMPLES = {f"s_{i:03d}": {"json": b'{"i": %d}' % i, "bin": bytes([i]) * (100 + 700 * i)} for i in range(9)}


def _write(store, **limits):
    with open_shards(store, "shards/part", **limits) as shards:
        for key, parts in SAMPLES.items():
            shards.add(key, parts)
    return shards


def test_the_same_samples_give_the_same_bytes(tmp_path):
    first = _write(Storage(str(tmp_path / "a")), max_samples=4)
    second = _write(Storage(str(tmp_path / "b")), max_samples=4)
    assert [file.sha256 for file in first.files] == [file.sha256 for file in second.files]
    assert [len(file.keys) for file in first.files] == [4, 4, 1]
    for file in first.files:
        assert sha256_file(tmp_path / "a" / file.name) == file.sha256


def test_rolls_at_the_byte_target(tmp_path):
    shards = _write(Storage(str(tmp_path)), max_bytes=20_000)
    assert len(shards.files) > 1
    assert [key for file in shards.files for key in file.keys] == list(SAMPLES)
    assert all(file.bytes <= 20_000 + 2 * tarfile.RECORDSIZE for file in shards.files)


def test_webdataset_reads_what_was_written(tmp_path):
    shards = _write(Storage(str(tmp_path)), max_samples=4)
    urls = [str(tmp_path / file.name) for file in shards.files]
    read = {item["__key__"]: item for item in wds.WebDataset(urls, shardshuffle=False)}
    assert {key: {"json": item["json"], "bin": item["bin"]} for key, item in read.items()} == SAMPLES


def test_members_are_found_by_one_ranged_read(tmp_path, s3_root):
    for root in (str(tmp_path), s3_root):
        store = Storage(root)
        shards = _write(store, max_samples=4)
        for key, parts in SAMPLES.items():
            for extension, data in parts.items():
                assert read_member(store, shards.members[key][extension]) == data


@pytest.mark.parametrize("key", ["a.b", "a b", "", "ä", "../x", "a/b"])
def test_keys_that_readers_would_split_are_refused(tmp_path, key):
    with pytest.raises(ShardError, match="sample key"), open_shards(Storage(str(tmp_path)), "p") as shards:
        shards.add(key, {"bin": b""})


def test_a_double_key_is_refused_and_nothing_is_published(tmp_path):
    store = Storage(str(tmp_path))
    with pytest.raises(ShardError, match="comes twice"), open_shards(store, "p") as shards:
        shards.add("a", {"bin": b"1"})
        shards.add("a", {"bin": b"2"})
    assert store.names() == []


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_member_is_compared_with_what_was_written_as_it_is_read(tmp_path, damage):
    (tmp_path / "clip.mp4").write_bytes(bytes(range(256)) * 20)
    store = Storage(str(tmp_path / "out"))
    with open_shards(store, "shards/a") as shards:
        placed = shards.add("k", {"mp4": tmp_path / "clip.mp4", "flac": b"sound" * 200})
    assert read_member(store, placed["mp4"]) == bytes(range(256)) * 20
    shard = tmp_path / "out" / placed["mp4"].shard
    data = bytearray(shard.read_bytes())
    data[placed["mp4"].offset + 1000] ^= 4
    if damage == "gone":
        shard.unlink()
    else:
        shard.write_bytes(data if damage == "flipped" else data[: placed["mp4"].offset + 100])
    with pytest.raises(DamageError, match=r"shards/a-00000\.tar.*(differ|is missing|100 of 5120 bytes)"):
        read_member(store, placed["mp4"])
    if damage == "flipped":
        assert read_member(store, placed["flac"]) == b"sound" * 200
