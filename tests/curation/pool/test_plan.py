"""Plans are deterministic, grow without moving what was planned, and say what is left."""

from collections import Counter

import pytest

from pipelines.curation.pool.outlook import look_ahead
from pipelines.curation.pool.plan import (
    extend_plan,
    make_parts,
    plan_files,
    read_plan,
    read_plan_file,
    remaining_parts,
    store_plan,
    touched,
)
from pipelines.curation.recipe import ExtractConfig, PartsConfig, SegmentsConfig
from pipelines.curation.records import Kind, Source
from skyreels.commits import Commit, CommitLog
from skyreels.storage import Storage

EXTRACT = ExtractConfig(parts=PartsConfig(max_sources=3, max_bytes=100))


def _sources(count, size=10, start=0):
    return [Source.at(f"/in/{i:03d}.mp4", Kind.VIDEO, size) for i in range(start, start + count)]


def test_parts_respect_count_and_bytes_and_cover_everything():
    parts = make_parts(_sources(7), EXTRACT)
    assert [len(part.sources) for part in parts] == [3, 3, 1]
    assert [len(part.sources) for part in make_parts(_sources(4, size=60), EXTRACT)] == [1, 1, 1, 1]
    assert [s for part in parts for s in part.sources] == _sources(7)
    assert make_parts(_sources(7), EXTRACT) == parts


def test_a_part_holds_more_pictures_than_films():
    pictures = [Source.at(f"/in/{i:03d}.jpg", Kind.IMAGE, 0) for i in range(200)]
    assert [len(part.sources) for part in make_parts(pictures, EXTRACT)] == [96, 96, 8]
    mixed = make_parts([*pictures[:10], *_sources(3, size=0), *pictures[10:50]], EXTRACT)
    assert [len(part.sources) for part in mixed] == [12, 41]


def test_the_extraction_is_part_of_a_parts_identity():
    other = EXTRACT.model_copy(update={"segments": SegmentsConfig(max_s=9.0)})
    assert make_parts(_sources(1), EXTRACT)[0].part_id != make_parts(_sources(1), other)[0].part_id


def test_a_plan_is_read_back_and_new_sources_touch_only_new_parts(tmp_path):
    pool = Storage(str(tmp_path))
    first = extend_plan(pool, _sources(4), EXTRACT)
    assert read_plan(pool, EXTRACT) == first
    assert extend_plan(pool, _sources(4), EXTRACT) == first
    grown = extend_plan(pool, _sources(6), EXTRACT)
    assert grown.parts[: len(first.parts)] == first.parts
    assert [s.uri for part in grown.parts[len(first.parts) :] for s in part.sources] == ["/in/004.mp4", "/in/005.mp4"]


def test_a_source_that_changed_is_planned_again(tmp_path):
    pool = Storage(str(tmp_path))
    extend_plan(pool, _sources(4), EXTRACT)
    changed = [*_sources(3), Source.at("/in/003.mp4", Kind.VIDEO, 77)]
    plan = extend_plan(pool, changed, EXTRACT)
    assert [s.uri for s in plan.parts[-1].sources] == ["/in/003.mp4"]
    assert plan.sources[changed[3].source_id].size == 77


def test_a_dry_plan_writes_nothing(tmp_path):
    pool = Storage(str(tmp_path))
    assert len(extend_plan(pool, _sources(4), EXTRACT, write=False).parts) == 2
    assert pool.names() == []


def test_a_replay_makes_new_parts_of_known_sources(tmp_path):
    pool = Storage(str(tmp_path))
    first = extend_plan(pool, _sources(2), EXTRACT)
    again = extend_plan(pool, _sources(1), EXTRACT, attempt=2)
    assert len(again.parts) == len(first.parts) + 1
    assert (again.parts[-1].attempt, again.parts[-1].sources) == (2, tuple(_sources(1)))


def test_what_remains_is_what_has_no_commit(tmp_path):
    pool = Storage(str(tmp_path))
    plan = extend_plan(pool, _sources(7), EXTRACT)
    CommitLog(pool).commit(Commit(part_id=plan.parts[1].part_id, files=()))
    assert plan.remaining(CommitLog(pool)) == [plan.parts[0], plan.parts[2]]


@pytest.mark.parametrize("listed", [[(0, 12)], [(0, 5), (5, 12)], []])
def test_what_is_told_ahead_is_what_the_whole_plan_says(tmp_path, monkeypatch, listed):
    monkeypatch.setattr("pipelines.curation.pool.plan._SOURCES_PER_FILE", 4)
    pool = Storage(str(tmp_path))
    planned = extend_plan(pool, _sources(7), EXTRACT)
    extend_plan(pool, _sources(2), EXTRACT, attempt=2)
    CommitLog(pool).commit(Commit(part_id=planned.parts[1].part_id, files=()))
    sources = [*_sources(6), Source.at("/in/006.mp4", Kind.IMAGE, 77), *_sources(5, start=7)]
    before = {name: pool.read(name) for name in pool.names()}
    ahead = look_ahead([sources[first:last] for first, last in listed], pool, EXTRACT)
    assert {name: pool.read(name) for name in pool.names()} == before
    known = extend_plan(pool, sources if listed else [], EXTRACT, write=False)
    left = known.remaining(CommitLog(pool))
    assert ahead.sources == Counter(source.kind for source in known.sources.values())
    assert sum(ahead.sources.values()) == (12 if listed else 7)
    if len(listed) < 2:  # a part ends where a list does
        assert (ahead.parts, ahead.left, ahead.first) == (len(known.parts), len(left), tuple(left))
    assert ahead.left_bytes == sum(source.size for part in left for source in part.sources)


@pytest.mark.parametrize("runs", [[(0, 7)], [(0, 4), (2, 9)], [(5, 9), (0, 3), (0, 9)]])
def test_a_stored_plan_is_the_same_whether_it_is_held_or_not(tmp_path, runs, monkeypatch):
    monkeypatch.setattr("pipelines.curation.pool.plan._SOURCES_PER_FILE", 4)
    held, stored = Storage(str(tmp_path / "held")), Storage(str(tmp_path / "stored"))
    for size, (first, last) in enumerate(runs):
        sources = [s.model_copy(update={"meta": {"run": size}}) for s in _sources(9)[first:last]]
        extend_plan(held, sources, EXTRACT)
        store_plan(stored, sources, EXTRACT)
        extend_plan(held, sources[:1], EXTRACT, attempt=2)
        store_plan(stored, sources[:1], EXTRACT, attempt=2)
    assert {name: held.read(name) for name in held.names()} == {name: stored.read(name) for name in stored.names()}
    assert [part for name in plan_files(stored, EXTRACT) for part in read_plan_file(stored, name)] == [
        *read_plan(held, EXTRACT).parts
    ]


def test_parts_that_are_left_come_a_file_at_a_time_and_are_those_of_the_plan(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.curation.pool.plan._SOURCES_PER_FILE", 4)
    pool = Storage(str(tmp_path))
    store_plan(pool, _sources(20), EXTRACT)
    seen = [source.model_copy(update={"meta": {"said": "later"}}) for source in _sources(2)]
    store_plan(pool, [*seen, *_sources(20)[2:]], EXTRACT)
    plan = read_plan(pool, EXTRACT)
    done = plan.parts[2]
    CommitLog(pool).commit(Commit(part_id=done.part_id, files=()))
    left = list(remaining_parts(pool, EXTRACT))
    assert [part for parts in left for part in parts] == plan.remaining(CommitLog(pool))
    assert done.part_id not in {part.part_id for parts in left for part in parts}
    assert max(sum(len(part.sources) for part in parts) for parts in left) <= 6
    assert len(left) > 2


def test_of_a_plan_only_the_parts_of_some_sources_are_held(tmp_path):
    pool = Storage(str(tmp_path))
    store_plan(pool, _sources(9), EXTRACT)
    wanted = _sources(9)[4].source_id
    found = touched(pool, EXTRACT, {wanted})
    assert [wanted in {source.source_id for source in part.sources} for part in found.parts] == [True]
