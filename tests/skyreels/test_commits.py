"""Commits: what is named is true, what is not named does not exist."""

import pytest

from skyreels.commits import Commit, CommitError, CommitLog, describe, verify
from skyreels.storage import DamageError, Storage


def _commit(store, part_id, text):
    name = f"files/{part_id}.txt"
    with store.staged(name) as path:
        path.write_text(text)
        file = describe(name, path, [f"{part_id}-key"])
    record = Commit(part_id=part_id, files=(file,), facts={"n": 1})
    CommitLog(store).commit(record)
    return record


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path):
    return Storage(str(tmp_path)) if request.param == "local" else Storage(request.getfixturevalue("s3_root"))


def test_round_trip_and_done(store):
    log = CommitLog(store)
    assert log.done() == set()
    one, two = _commit(store, "p1", "one"), _commit(store, "p2", "two")
    assert log.done() == {"p1", "p2"}
    assert list(log.all()) == [one, two]
    assert one.keys == ["p1-key"]
    log.revoke("p1")
    assert log.done() == {"p2"}


def test_verify_tells_missing_from_changed(store):
    record = _commit(store, "p1", "one")
    assert verify(store, record) == []
    store.write("files/p1.txt", b"oNe")
    assert "differs" in verify(store, record)[0]
    store.delete("files/p1.txt")
    assert "missing" in verify(store, record)[0]


def test_orphans_are_what_no_commit_names(store):
    _commit(store, "p1", "one")
    store.write("files/left-by-a-kill.txt", b"x")
    assert CommitLog(store).orphans("files") == ["files/left-by-a-kill.txt"]


def _damage(store, name, how):
    data = bytearray(store.read(name))
    if how == "gone":
        store.delete(name)
    elif how == "flipped":
        data[len(data) // 2] ^= 1
        store.write(name, bytes(data))
    else:
        store.write(name, {"empty": b"", "cut": bytes(data[:-1]), "garbage": b"\xff\x00" * 40}[how])


@pytest.mark.parametrize("how", ["empty", "cut", "garbage"])
def test_a_damaged_record_is_told_and_its_part_counts_as_not_done(store, how, caplog):
    _commit(store, "p1", "one")
    sound = _commit(store, "p2", "two")
    _damage(store, "_commits/p1.json", how)
    with pytest.raises(CommitError, match=r"_commits/p1\.json is not a commit record.*run again.*made anew"):
        CommitLog(store).read("p1")
    assert list(CommitLog(store).all()) == [sound]
    assert CommitLog(store).intact() == {"p2": sound}
    assert "_commits/p1.json" in caplog.text


@pytest.mark.parametrize("how", ["gone", "empty", "cut", "garbage"])
def test_a_part_whose_files_are_not_there_with_their_sizes_is_not_intact(store, how):
    _commit(store, "p1", "one")
    sound = _commit(store, "p2", "two")
    assert CommitLog(store).intact().keys() == {"p1", "p2"}
    _damage(store, "files/p1.txt", how)
    assert CommitLog(store).intact() == {"p2": sound}


@pytest.mark.parametrize("how", ["gone", "cut", "flipped"])
def test_a_committed_file_is_compared_as_it_is_read(store, how):
    record = _commit(store, "p1", "one")
    assert CommitLog(store).read_file(record.files[0]) == b"one"
    _damage(store, "files/p1.txt", how)
    with pytest.raises(DamageError, match=r"files/p1\.txt (is missing|differs)"):
        CommitLog(store).read_file(record.files[0])


def test_a_record_under_another_name_does_not_count_twice(store, caplog):
    record = _commit(store, "p1", "one")
    store.write("_commits/p1 copy.json", store.read("_commits/p1.json"))
    assert list(CommitLog(store).all()) == [record]
    assert "p1 copy.json is the commit record of p1 under another name: delete it" in caplog.text
