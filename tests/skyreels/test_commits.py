"""Commits: what is named is true, what is not named does not exist."""

import pytest

from skyreels.commits import Commit, CommitError, CommitLog, describe, verify
from skyreels.storage import Storage


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


def test_a_broken_record_says_which_and_what_to_do(store):
    store.write("_commits/p1.json", b"{")
    with pytest.raises(CommitError, match=r"_commits/p1\.json.*delete it and\s+run again"):
        CommitLog(store).read("p1")
