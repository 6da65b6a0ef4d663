"""Tables of samples, mapped: they choose and draw as sequences that are looked through do; what is damaged is named.

The reference of every comparison is the same samples as a plain tuple.
"""

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from heapq import nsmallest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.dataset import node_copies
from pipelines.dataset.node_copies import at_hand
from pipelines.training.data import held_out as holding
from pipelines.training.data.datasets import key_within
from pipelines.training.data.held_out import chosen_of, held_out, smallest_of
from pipelines.training.data.sampler import Sampler, SamplerError
from pipelines.training.data.selection import Listed, selectable
from pipelines.training.latents.rows import table as reading
from pipelines.training.latents.rows import write as writing
from pipelines.training.latents.rows.joined import ALONE, Rows
from pipelines.training.latents.rows.table import IndexEntry, LatentError, Table
from pipelines.training.latents.rows.write import in_order, write_table
from pipelines.training.latents.spec import clip_of
from pipelines.training.tasks import BOTH, TASKS
from skyreels.storage import DamageError, Storage, publish

HELD = {
    "all": {"has_audio": True, "texts": ("short", "structured+image"), "references": ("image",), "extensions": 2},
    "silent": {"has_audio": False, "texts": ("short",), "references": (), "extensions": 2},
    "plain": {"has_audio": True, "texts": ("short",), "references": (), "extensions": 0},
    "untold": {"has_audio": True, "texts": (), "references": (), "extensions": 0},
}
BUCKETS = ("video-64p-1x1-1s", "video-64p-4x3-1s", "image-64p-1x1")
MIX = {"t2v": 0.4, "t2av": 0.3, "extend": 0.1, "image_ref": 0.1, "t2i": 0.1}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Few rows come to several blocks."""
    for module in (reading, writing):
        monkeypatch.setattr(module, "BLOCK", 4)


def entry(key, held="all", bucket="video-64p-1x1-1s", number=0):
    rest = {"regions": 1, "refined": False, "seconds": 1.0, "json_offset": 512 * number, "json_size": 9}
    place = {"shard": f"shards/{bucket}/{number // 3}.tar", "offset": 5, "size": 7, "crc32": number}
    return IndexEntry(key=key, kind=bucket.partition("-")[0], bucket=bucket, **HELD[held], **rest, **place)


def opened(folder, entries, name=ALONE):
    storage = Storage(str(folder / (name or "alone")))
    bucket = entries[0].bucket
    return Table(storage, bucket, write_table(storage, bucket, entries), "f", "make it anew")


@st.composite
def buckets(draw):
    """Samples by bucket, in order of key: windows and frames of clips, some of whose own names look like such."""
    found = {}
    for bucket in draw(st.sets(st.sampled_from(BUCKETS), min_size=1)):
        stems = draw(st.sets(st.text("ab-w01_", min_size=1, max_size=4), min_size=1, max_size=25))
        windows = draw(st.integers(1, 3))
        keys = {stem if draw(st.booleans()) else f"{stem}-w{number}" for stem in stems for number in range(windows)}
        held = draw(st.lists(st.sampled_from(sorted(HELD)), min_size=len(keys), max_size=len(keys)))
        pairs = zip(sorted(keys), held, strict=True)
        found[bucket] = tuple(entry(key, one, bucket, number) for number, (key, one) in enumerate(pairs))
    return found


def usable(task, one):
    return TASKS[task].usable(one, BOTH)


def drawn(found, seed, held):
    """All that a run asks of its sampler, and what it says where it cannot be made."""
    try:
        sampler = Sampler(
            found,
            MIX,
            usable=usable,
            tokens=lambda task, bucket: 10,
            slots=2,
            tokens_per_slot=30,
            seed=seed,
            optional=("extend", "image_ref", "t2av", "t2i"),
            held=held,
        )
    except SamplerError as error:
        return str(error)
    draws = [sampler.draw(step) for step in range(30)]
    assert [sampler.draw(draw.step, 1).slots for draw in draws] == [draw.slots[1:] for draw in draws]
    replaced = []
    for draw in draws[:5]:
        try:
            replaced.append(sampler.replacement(draw, draw.slots[0][0], 1))
        except SamplerError as error:
            replaced.append(str(error))
    return draws, replaced, sampler.epoch, sampler.mix, [pool.name for pool in sampler.pools]


@settings(max_examples=60, deadline=None)
@given(one=buckets(), other=buckets(), joined=st.booleans(), seed=st.integers(0, 9))
def test_tables_choose_hold_out_and_draw_as_samples_in_memory(tmp_path_factory, one, other, joined, seed):
    folder = tmp_path_factory.mktemp("rows")
    datasets = {"left": one, "right": other} if joined else {ALONE: one}
    tables, plain = {}, {}
    for name, found in datasets.items():
        for bucket, entries in found.items():
            tables.setdefault(bucket, {})[name] = opened(folder, entries, name)
            told = [dataclasses.replace(e, key=key_within(name, e.key)) if name else e for e in entries]
            plain[bucket] = plain.get(bucket, ()) + tuple(told)
    mapped = {bucket: Rows(held) for bucket, held in tables.items()}
    assert {bucket: tuple(rows) for bucket, rows in mapped.items()} == plain
    tasks = [partial(usable, task) for task in MIX]
    held = held_out(mapped, tasks)
    assert held == looked_through(plain, tasks)
    for bucket, rows in mapped.items():
        listed = Listed(plain[bucket])
        assert list(selectable(rows).of_keys(held)) == list(listed.of_keys(held))
        for task in MIX:
            places = rows.usable(partial(usable, task), held)
            assert list(places) == list(listed.usable(partial(usable, task), held))
            assert isinstance(places, range) == (len(places) == len(rows))
            assert rows.count(partial(usable, task)) == listed.count(partial(usable, task))
    assert drawn(mapped, seed, held) == drawn(plain, seed, held)


def looked_through(buckets, tasks):
    """What is held out, from every sample at every question."""
    entries = [one for bucket in buckets.values() for one in bucket]
    kinds = {one.kind for one in entries}
    chosen = frozenset(c for kind in kinds for c in chosen_of(clip_of(one.key) for one in entries if one.kind == kind))
    for fits in tasks:
        mine = {clip_of(one.key) for one in entries if fits(one)}
        if chosen >= mine:
            chosen -= mine
    return frozenset(one.key for one in entries if clip_of(one.key) in chosen)


@settings(max_examples=30, deadline=None)
@given(clips=st.sets(st.integers(0, 10**6), max_size=700), shares=st.integers(1, 3))
def test_the_smallest_of_each_share_decide_what_all_together_hold_out(clips, shares):
    parts = [[str(clip) for clip in sorted(clips) if clip % shares == share] for share in range(shares)]
    few = [clip for part in parts for clip in smallest_of(part)]
    assert len(few) <= shares * holding.ONE_IN * holding.MOST
    assert chosen_of(few) == chosen_of(str(clip) for clip in clips)


def test_flat_memory_is_kept_of_any_number_of_clips():
    every = [str(clip) for clip in range(5000)]
    assert smallest_of(iter(every)) == nsmallest(holding.ONE_IN * holding.MOST, every, key=holding._place)


def test_parts_are_merged_in_order_of_key_whatever_clips_are_called():
    parts = [("a", ["a-w0", "a-w1"]), ("a-b", ["a-b"]), ("a-x", ["a-x-w0"]), ("a0", ["a0"])]
    merged = in_order((first, [entry(key) for key in keys]) for first, keys in parts)
    assert [one.key for one in merged] == ["a-b", "a-w0", "a-w1", "a-x-w0", "a0"]


def test_the_same_samples_give_the_same_bytes(tmp_path):
    entries = [entry(f"k{number:02d}", sorted(HELD)[number % 4], number=number) for number in range(11)]
    one, other = (opened(tmp_path / name, entries).facts for name in "ab")
    assert one == other


def test_what_all_keys_were_looked_through_for_is_kept_beside_the_table(tmp_path, monkeypatch):
    table = opened(tmp_path, [entry(f"k{number:02d}-w0") for number in range(40)])
    first = Rows({"left": table, "right": table}).clips()
    monkeypatch.setattr(Table, "every_key", None)
    assert Rows({"left": table}).clips()["video"] <= first["video"]
    assert first["video"] == {f"{name}.k{number:02d}" for name in ("left", "right") for number in range(40)}
    monkeypatch.undo()
    (kept, _) = [name for name in table.storage.names("index") if ".held-" in name]
    for damage in (b"", b"{}", table.storage.read(kept).replace(b'"f"', b'"g"')):
        table.storage.write(kept, damage)
        assert Rows({"left": table, "right": table}).clips() == first


@pytest.fixture
def storage(tmp_path):
    entries = [entry(f"k{number:02d}", number=number) for number in range(10)]
    return opened(tmp_path, entries).storage, opened(tmp_path, entries).facts


def damaged(storage, file, change):
    data = bytearray(storage.read(file.name))
    storage.write(file.name, bytes(change(data)))


@pytest.mark.parametrize("kind", ["rows", "shards", "blocks"])
def test_a_file_that_is_cut_or_missing_is_seen_when_it_is_opened(storage, kind):
    storage, facts = storage
    file = getattr(facts, kind)
    damaged(storage, file, lambda data: data[:-1])
    with pytest.raises(LatentError, match=rf"{kind}\.arrow is damaged \(\d+ of \d+ bytes\): make it anew"):
        Table(storage, "b", facts, "f", "make it anew")
    storage.delete(file.name)
    with pytest.raises(LatentError, match=rf"{kind}\.arrow is missing: make it anew"):
        Table(storage, "b", facts, "f", "make it anew")


def test_a_flipped_bit_is_seen_in_blocks_when_opened_and_in_rows_when_they_are_read(storage):
    storage, facts = storage
    at = storage.read(facts.rows.name).index(b"k05")
    flip = lambda data, at: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]  # noqa: E731
    damaged(storage, facts.rows, lambda data: flip(data, at))
    rows = Rows({ALONE: Table(storage, "b", facts, "f", "make it anew")})
    assert rows[0].key == "k00"
    for read in (lambda: rows[5], lambda: list(rows.of_keys({"k06"})), lambda: rows.usable(bool, {"k07"})[5]):
        with pytest.raises(LatentError, match=r"rows\.arrow is damaged \(the CRC-32 of rows 4 and following"):
            read()
    damaged(storage, facts.blocks, lambda data: flip(data, data.index(b"k04")))
    with pytest.raises(LatentError, match=r"blocks\.arrow is damaged \(it differs from its checksum\)"):
        Table(storage, "b", facts, "f", "make it anew")


def test_processes_of_a_machine_share_one_copy_of_a_remote_table_whose_bytes_were_compared(
    s3_root, tmp_path, monkeypatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    storage = Storage(f"{s3_root}/cache")
    facts = write_table(storage, "video-1s", [entry(f"k{number}", bucket="video-1s") for number in range(9)])
    rows = Rows({ALONE: Table(storage, "b", facts, "f", "-")})
    path = at_hand("index", storage, facts.rows)
    path.unlink()
    copies = []
    monkeypatch.setattr(node_copies, "publish", lambda one, other: (copies.append(other), publish(one, other)))
    with ThreadPoolExecutor(4) as workers:
        assert set(workers.map(at_hand, ["index"] * 4, [storage] * 4, [facts.rows] * 4)) == {path} == set(copies)
    assert len(copies) == 1
    storage.delete(facts.rows.name)
    assert at_hand("index", storage, facts.rows) == path
    assert [one.key for one in rows] == [f"k{number}" for number in range(9)]
    damaged(storage, facts.shards, lambda data: data[::-1])
    at_hand("index", storage, facts.shards).unlink()
    with pytest.raises(DamageError, match=r"shards\.arrow differs from its checksum"):
        at_hand("index", storage, facts.shards)
    path.parent.chmod(0o777)
    with pytest.raises(OSError, match="may be written to by others"):
        at_hand("index", storage, facts.rows)


def test_looking_for_a_sample_touches_few_blocks(tmp_path):
    entries = [entry(f"k{number:03d}", sorted(HELD)[number % 3], number=number) for number in range(800)]
    table = opened(tmp_path, entries)
    assert table.key(table.search("k700")) == "k700"
    table.select((0, 2), 300)
    table.place((0, 2), 555)
    assert len(table._sound) <= 3 < math.ceil(800 / reading.BLOCK)
