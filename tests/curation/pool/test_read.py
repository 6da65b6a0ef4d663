"""The pool as it is read: what cannot be read any more is a row per source, and its neighbours are as they were."""

import pytest

from pipelines.curation.pool import tables
from pipelines.curation.pool.plan import Part, Plan
from pipelines.curation.pool.read import read_pool
from pipelines.curation.records import Clip, Kind, Source, SourceReport, Status
from pipelines.dataset.tables import encode
from skyreels.commits import Commit, CommitLog, describe
from skyreels.storage import Storage

PARTS = {"one": ("1" * 16, "2" * 16), "two": ("3" * 16,)}


@pytest.fixture
def pool(tmp_path):
    store = Storage(str(tmp_path))
    parts = []
    for part_id, names in PARTS.items():
        sources = tuple(Source(source_id=n, uri=str(tmp_path / "in" / n), kind=Kind.VIDEO, size=1) for n in names)
        clips = [Clip(key=f"{n}_00000", source_id=n, kind=Kind.VIDEO, end_s=2.0) for n in names]
        reports = [SourceReport(source=source, status=Status.OK) for source in sources]
        files = []
        for name, table in (
            (f"clips/{part_id}.parquet", tables.clip_table(tables.clip_rows(part_id, clips, {}))),
            (f"sources/{part_id}.parquet", tables.source_table(tables.source_rows(part_id, reports))),
        ):
            with store.staged(name) as path:
                path.write_bytes(encode(table))
                files.append(describe(name, path))
        CommitLog(store).commit(Commit(part_id=part_id, files=tuple(files), facts={"extract": "0"}))
        parts.append(Part(part_id, sources))
    return store, Plan(tuple(parts))


@pytest.mark.parametrize("name", ["_commits/one.json", "clips/one.parquet", "sources/one.parquet"])
@pytest.mark.parametrize("how", ["empty", "flipped", "gone"])
def test_a_damaged_part_is_told_source_by_source(pool, caplog, name, how):
    store, plan = pool
    data = bytearray(store.read(name))
    data[len(data) // 2] ^= 255
    if how == "gone" and not name.startswith("_commits"):
        store.delete(name)
    else:
        store.write(name, b"" if how == "empty" else bytes(data))
    found = read_pool(store, plan)
    assert found.clips.column("source_id").to_pylist() == list(PARTS["two"])
    rows = {row["source_id"]: row for row in found.sources.to_pylist()}
    assert rows.keys() == {*PARTS["one"], *PARTS["two"]}
    for source in PARTS["one"]:
        assert (rows[source]["status"], rows[source]["stage"], rows[source]["reason"]) == ("failed", "pool", "damaged")
        assert "verify" in rows[source]["remedy"]
        assert "one" in rows[source]["detail"]
    assert rows[PARTS["two"][0]]["status"] == "ok"
    assert "part one of the pool cannot be read" in caplog.text


def test_a_damaged_part_is_made_again_only_while_all_its_sources_are_there(pool, tmp_path):
    store, plan = pool
    store.write("clips/one.parquet", b"")
    assert plan.remaining(CommitLog(store)) == []
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / PARTS["one"][0]).write_bytes(b"x")
    assert plan.remaining(CommitLog(store)) == []
    (tmp_path / "in" / PARTS["one"][1]).write_bytes(b"x")
    assert [part.part_id for part in plan.remaining(CommitLog(store))] == ["one"]
    store.delete("_commits/two.json")
    assert [part.part_id for part in plan.remaining(CommitLog(store))] == ["one", "two"], "never done: done now"
