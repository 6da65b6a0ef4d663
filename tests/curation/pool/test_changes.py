"""A file that changed in place and words that changed are noticed; a file that was only touched is not cut again."""

import json
import os

import numpy as np
import pytest
import soundfile

from pipelines.curation.pool.extract import extract_in_process
from pipelines.curation.pool.plan import extend_plan, read_plan
from pipelines.curation.pool.read import read_pool
from pipelines.curation.recipe import ExtractConfig, PartsConfig
from pipelines.curation.sources.find import find_sources
from skyreels.commits import CommitLog
from skyreels.storage import Storage

EXTRACT = ExtractConfig(parts=PartsConfig(max_sources=2))
RATE = 16_000


def _sound(path, pitch, seconds=3.0):
    """Files of one length have one size."""
    times = np.arange(round(seconds * RATE)) / RATE
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * pitch * times) * (1 + np.sin(6 * times)) / 2, RATE, subtype="PCM_16")


@pytest.fixture
def world(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number, name in enumerate("abc"):
        _sound(folder / f"{name}.wav", 220 * (number + 1))
        (folder / f"{name}.txt").write_text(f"a tone called {name}")
    return folder, Storage(str(tmp_path / "pool"))


def _run(world, *inputs):
    """Plan and do what is left; the names of the sources that were cut, and the pool by name."""
    folder, pool = world
    plan = extend_plan(pool, find_sources([str(item) for item in inputs or (folder,)]), EXTRACT)
    left = plan.remaining(CommitLog(pool))
    list(extract_in_process(left, EXTRACT, pool))
    assert read_plan(pool, EXTRACT) == plan
    found = read_pool(pool, plan)
    sources = {row["uri"].rpartition("/")[2]: row for row in found.sources.to_pylist()}
    clips = {row["source_id"]: row for row in found.clips.to_pylist()}
    cut = [source.uri.rpartition("/")[2] for part in left for source in part.sources]
    return cut, {name: row | {"clip": clips.get(row["source_id"])} for name, row in sources.items()}


def _later(path):
    now = path.stat()
    os.utime(path, ns=(now.st_atime_ns, now.st_mtime_ns + 5_000_000_000))


def test_a_file_of_the_same_size_with_other_bytes_is_cut_again(world):
    folder, _ = world
    cut, before = _run(world)
    assert cut == ["a.wav", "b.wav", "c.wav"]
    _sound(folder / "b.wav", 2000)
    _later(folder / "b.wav")
    assert (folder / "b.wav").stat().st_size == before["b.wav"]["size"]
    cut, after = _run(world)
    assert cut == ["b.wav"]
    assert after["b.wav"]["sha256"] != before["b.wav"]["sha256"]
    assert after["b.wav"]["clip"]["key"] == before["b.wav"]["clip"]["key"]
    assert after["b.wav"]["clip"]["members"] != before["b.wav"]["clip"]["members"]
    assert {name for name in after if after[name]["clip"]["made_of"] != before[name]["clip"]["made_of"]} == {"b.wav"}
    assert _run(world)[0] == []


def test_what_a_damaged_part_was_made_of_is_not_known_so_what_was_touched_in_it_is_cut_again(world):
    folder, pool = world
    _run(world)
    damaged = next(commit for commit in CommitLog(pool).all() if len(commit.facts["sources"]) == 2)
    (table,) = [file.name for file in damaged.files if file.name.startswith("sources/")]
    data = bytearray(pool.read(table))
    data[len(data) // 2] ^= 1
    pool.write(table, bytes(data))
    for name in "abc":
        _later(folder / f"{name}.wav")
    cut, after = _run(world)
    assert cut == ["a.wav", "b.wav"]
    assert all(row["clip"] for row in after.values())


def test_a_file_that_comes_back_to_what_it_was_is_cut_again_as_well(world):
    folder, _ = world
    _, before = _run(world)
    _sound(folder / "b.wav", 2000, seconds=4.0)
    _run(world)
    _sound(folder / "b.wav", 440)
    cut, after = _run(world)
    assert cut == ["b.wav"]
    assert after["b.wav"]["clip"]["made_of"] == before["b.wav"]["clip"]["made_of"]


def test_a_file_that_was_only_touched_is_read_once_and_not_cut(world):
    folder, pool = world
    _, before = _run(world)
    _later(folder / "a.wav")
    assert _run(world) == ([], before)
    seen = pool.names("_seen")
    assert _run(world) == ([], before)
    assert pool.names("_seen") == seen


def test_words_that_changed_are_brought_up_to_date_and_nothing_is_cut(world):
    folder, _ = world
    _, before = _run(world)
    (folder / "c.txt").write_text("a tone called sea")
    (folder / "a.txt").unlink()
    cut, after = _run(world)
    assert cut == []
    assert json.loads(after["c.wav"]["meta"])["txt"] == "a tone called sea"
    assert "txt" not in json.loads(after["a.wav"]["meta"])
    assert after["b.wav"] == before["b.wav"]


def test_what_a_manifest_said_holds_until_a_manifest_says_otherwise(world):
    folder, _ = world
    manifest = folder.parent / "list.csv"
    manifest.write_text("path,licence,caption\nin/a.wav,CC0,a\nin/b.wav,CC0,b\n")
    _run(world, manifest)
    _, after = _run(world, folder)
    meta = json.loads(after["a.wav"]["meta"])
    assert (meta["licence"], meta["txt"]) == ("CC0", "a tone called a")
    assert [caption["origin"] for caption in meta["_captions"]] == ["manifest", "text"]
    manifest.write_text("path,licence,caption\nin/a.wav,BY,\nin/b.wav,CC0,b\n")
    cut, after = _run(world, manifest)
    assert cut == []
    meta = json.loads(after["a.wav"]["meta"])
    assert (meta["licence"], "caption" in meta) == ("BY", False)


def test_a_source_that_is_not_cut_yet_is_read_as_it_is_now(world):
    folder, pool = world
    extend_plan(pool, find_sources([str(folder)]), EXTRACT)
    (folder / "a.txt").write_text("new words")
    _sound(folder / "b.wav", 2000, seconds=4.0)
    cut, after = _run(world)
    assert cut == ["a.wav", "b.wav", "c.wav"]
    assert json.loads(after["a.wav"]["meta"])["txt"] == "new words"
    assert after["b.wav"]["size"] == (folder / "b.wav").stat().st_size


def test_the_pieces_of_a_joined_sound_are_cut_again_together(world):
    folder, _ = world
    for path in folder.glob("*"):
        path.unlink()
    for name, pitch in (("a", 220), ("b", 230)):
        _sound(folder / f"{name}.wav", pitch, seconds=1.2)
    _, before = _run(world)
    (was,) = (row["clip"] for row in before.values() if row["clip"])
    assert len(json.loads(was["parts"])) == 2
    _sound(folder / "b.wav", 250, seconds=1.2)
    _later(folder / "b.wav")
    cut, after = _run(world)
    assert sorted(cut) == ["a.wav", "b.wav"]
    (now,) = (row["clip"] for row in after.values() if row["clip"])
    assert (now["key"], len(json.loads(now["parts"]))) == (was["key"], 2)
    assert now["made_of"] != was["made_of"]
