"""Take-down: no byte of a source stays, nothing else changes, and a crash at any deletion is finished by a rerun."""

import pyarrow as pa
import pytest

from pipelines.curation.pool import tables
from pipelines.curation.purge import purge_sources
from pipelines.curation.records import Clip, Kind, Source, SourceReport, Status
from pipelines.curation.taken_down import find_named
from pipelines.dataset.tables import decode, encode, members_of
from skyreels.commits import Commit, CommitLog, describe, verify
from skyreels.shards import open_shards, read_member
from skyreels.storage import DamageError, Storage

VICTIM = "badbadbadbadbad0"
OTHERS = ("0000000000000001", "0000000000000002", "0000000000000003")
LAYERS = ("captions-1", "embeddings-1", "transcripts-1")


@pytest.fixture
def root(tmp_path):
    """Two parts: the victim beside a neighbour, with a sound joined from both; and two strangers."""
    store = Storage(str(tmp_path))
    _part(store.sub("pool"), "one", (VICTIM, OTHERS[0]), joined=(OTHERS[0], VICTIM))
    _part(store.sub("pool"), "two", OTHERS[1:])
    for layer in LAYERS:
        _layer(store.sub(f"layers/{layer}"), [f"{VICTIM}_00000", f"{OTHERS[0]}_00000", f"{OTHERS[0]}_00009"], failed=0)
        _layer(store.sub(f"layers/{layer}"), [f"{VICTIM}_00001", f"{OTHERS[1]}_00000"], failed=1)
    return store


def _part(pool, part_id, source_ids, joined=()):
    clips = [_clip(source, index) for source in source_ids for index in range(2)]
    if joined:
        clips.append(_clip(joined[0], 9, parts=[(source, 0.0, 0.5) for source in joined]))
    clips.sort(key=lambda clip: clip.key)
    with open_shards(pool, f"shards/{part_id}", max_samples=2) as shards:
        for clip in clips:
            told = " ".join([clip.source_id, *(piece for piece, _, _ in clip.parts)])
            shards.add(clip.key, {"mp4": f"film of {told} ".encode() * 50, "flac": f"sound of {told}".encode()})
    reports = [
        SourceReport(source=Source(source_id=s, uri=f"/in/{s}", kind=Kind.VIDEO, size=1), status=Status.OK)
        for s in source_ids
    ]
    named = {
        f"clips/{part_id}.parquet": tables.clip_table(tables.clip_rows(part_id, clips, shards.members)),
        f"sources/{part_id}.parquet": tables.source_table(tables.source_rows(part_id, reports)),
    }
    files = [*shards.files, *(_table(pool, name, table) for name, table in named.items())]
    facts = {"sources": dict.fromkeys(source_ids, "ok")}
    CommitLog(pool).commit(Commit(part_id=part_id, files=tuple(files), facts=facts))


def _clip(source, index, **changes):
    return Clip(key=f"{source}_{index:05d}", source_id=source, kind=Kind.VIDEO, end_s=2.0, **changes)


def _layer(store, keys, failed):
    """One committed part of answers; the first `failed` of them are errors."""
    errors = dict.fromkeys(keys[:failed], "no answer")
    rows = [{"key": key, "error": errors.get(key), "said": f"of {key}"} for key in keys]
    file = _table(store, f"parts/{keys[0]}.parquet", pa.Table.from_pylist(rows))
    file = file.model_copy(update={"keys": tuple(keys[failed:])})
    CommitLog(store).commit(Commit(part_id=keys[0][-8:], files=(file,), facts={"made_by": {}, "failed": errors}))


def _table(store, name, table):
    with store.staged(name) as path:
        path.write_bytes(encode(table))
        return describe(name, path)


def _logs(root):
    return [root.sub("pool"), *(root.sub(f"layers/{layer}") for layer in LAYERS)]


def _contents(root):
    """Files of every clip and answers of every layer, by key."""
    found = {}
    for store in _logs(root):
        for commit in CommitLog(store).all():
            assert verify(store, commit) == []
            for file in commit.files:
                if file.name.endswith(".parquet"):
                    for row in decode(store.read(file.name)).to_pylist():
                        found[store.root, row.get("key") or row["source_id"]] = _content(store, row)
    return found


def _content(store, row):
    if "members" not in row:
        return row.get("said") or row["uri"]
    return {name: read_member(store, member) for name, member in members_of(row).items()}


def _says(root, word):
    """Files that hold the word, as plain bytes or in a column of a table."""
    hits = []
    for name in root.names():
        data = root.read(name)
        text = str(decode(data).to_pylist()).encode() if name.endswith(".parquet") else data
        if word.encode() in text:
            hits.append(name)
    return hits


def _without_victim(contents):
    joined = f"{OTHERS[0]}_00009"
    return {place: content for place, content in contents.items() if VICTIM not in place[1] and place[1] != joined}


def test_every_trace_goes_and_every_other_clip_stays_as_it_was(root):
    before = _contents(root)
    assert _says(root, VICTIM)
    untouched = {name: root.read(name) for name in root.names("pool/shards") if "/two-" in name}
    purge_sources(root, frozenset({VICTIM}))
    assert _says(root, VICTIM) == []
    assert _contents(root) == _without_victim(before)
    assert {name: root.read(name) for name in untouched} == untouched


def test_what_was_joined_from_it_goes_as_well(root):
    purge_sources(root, frozenset({VICTIM}))
    keys = {key for _, key in _contents(root)}
    assert f"{OTHERS[0]}_00009" not in keys
    assert f"{OTHERS[0]}_00000" in keys


def test_no_file_is_left_that_no_commit_names(root):
    purge_sources(root, frozenset({VICTIM}))
    for store in _logs(root):
        named = {file.name for commit in CommitLog(store).all() for file in commit.files}
        assert {name for name in store.names() if not name.startswith("_")} == named


def test_a_second_take_down_of_the_same_changes_nothing(root):
    purge_sources(root, frozenset({VICTIM}))
    once = {name: root.read(name) for name in root.names()}
    purge_sources(root, frozenset({VICTIM}))
    assert {name: root.read(name) for name in root.names()} == once


def test_one_after_another_ends_as_both_at_once_would(root):
    before = _contents(root)
    for source in (VICTIM, OTHERS[0], OTHERS[1]):
        purge_sources(root, frozenset({source}))
        assert _says(root, source) == []
    assert _contents(root) == {place: content for place, content in before.items() if OTHERS[2] in place[1]}


def test_an_unknown_source_changes_nothing(root):
    before = {name: root.read(name) for name in root.names()}
    purge_sources(root, frozenset({"f" * 16}))
    assert {name: root.read(name) for name in root.names()} == before


@pytest.mark.parametrize("operation", ["delete", "write"])
@pytest.mark.parametrize("survived", range(7))
def test_a_crash_is_finished_by_the_same_command(root, monkeypatch, operation, survived):
    """The n-th deletion, or the n-th commit, fails: the disk is full, the machine stops."""
    before = _contents(root)
    real, count = getattr(Storage, operation), iter(range(10_000))

    def breaks(self, *arguments):
        if next(count) == survived:
            raise OSError("stopped here")
        real(self, *arguments)

    monkeypatch.setattr(Storage, operation, breaks)
    with pytest.raises(OSError, match="stopped here"):
        purge_sources(root, frozenset({VICTIM}))
    monkeypatch.undo()
    for store in _logs(root):
        assert all(verify(store, commit) == [] for commit in CommitLog(store).all())
    purge_sources(root, frozenset({VICTIM}))
    assert _says(root, VICTIM) == []
    assert _contents(root) == _without_victim(before)


def test_a_neighbours_damage_keeps_nothing_from_being_taken_down(root):
    """A bit of the clip beside the victim's has flipped: it is left out, with a row that says why."""
    pool = root.sub("pool")
    rows = {row["key"]: row for row in decode(pool.read("clips/one.parquet")).to_pylist()}
    member = members_of(rows[f"{OTHERS[0]}_00001"])["mp4"]
    data = bytearray(pool.read(member.shard))
    data[member.offset] ^= 1
    pool.write(member.shard, bytes(data))
    purge_sources(root, frozenset({VICTIM}))
    assert _says(root, VICTIM) == []
    rows = {row["key"]: row for row in decode(pool.read("clips/one-r1.parquet")).to_pylist()}
    assert rows[f"{OTHERS[0]}_00001"]["reason"] == "damaged"
    assert rows[f"{OTHERS[0]}_00000"]["reason"] is None


def test_answers_go_with_their_source_even_where_the_pools_commit_was_lost(root):
    root.delete("pool/_commits/one.json")
    purge_sources(root, frozenset({VICTIM}))
    assert _says(root, VICTIM) == []


@pytest.mark.parametrize("name", ["pool/clips/one.parquet", "pool/sources/one.parquet"])
def test_a_table_that_cannot_be_read_stops_the_take_down_with_a_remedy(root, name):
    """What it names would stay unseen, so nothing may claim success."""
    root.write(name, b"\xff" * 100)
    with pytest.raises(DamageError, match=r"one\.parquet differs .*verify.*take the source down again"):
        purge_sources(root, frozenset({VICTIM}))
    if "sources" in name:
        with pytest.raises(DamageError, match="take the source down again"):
            find_named(root, [f"/in/{VICTIM}"], copies=True)
