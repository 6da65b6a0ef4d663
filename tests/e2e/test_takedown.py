"""A take-down holds, whichever way the same bytes come back, and says so where it does not."""

import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs import curate
from pipelines.curation.pool.plan import extend_plan
from pipelines.curation.recipe import load_recipe
from pipelines.curation.records import Kind, Source
from pipelines.dataset.tables import decode
from skyreels.storage import Storage

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

EVERYTHING = Path(__file__).with_name("everything.yaml")


@pytest.fixture
def copied(curated, tmp_path):
    return Path(shutil.copytree(curated, tmp_path / "copy"))


@pytest.fixture
def victim(copied):
    """A kept film: its row of the manifest."""
    return next(row for row in _rows(copied, "manifest") if row["kind"] == "video")


def _run(*words):
    return curate.main([*map(str, words), "--quiet"])


def _curate(inputs, output):
    return _run("--input", *inputs, "--output", output, "--recipe", EVERYTHING, "--no-tracking")


def _takedown(output, *words):
    return _run("takedown", "--output", output, "--source", *words)


def _rows(output, table, name="default"):
    return pq.read_table(output / "datasets" / name / f"{table}.parquet").to_pylist()


def _holds(output, source_id):
    """Files with clips of a source, or with what was said of them; the plan knows its name."""
    hits = []
    for path in output.rglob("*"):
        if not path.is_file() or path.is_relative_to(output / "pool" / "_plan") or path.name == "taken_down.json":
            continue
        data = path.read_bytes()
        text = str(decode(data).to_pylist()).encode() if path.suffix == ".parquet" else data
        if f"{source_id}_".encode() in text:
            hits.append(str(path.relative_to(output)))
    return hits


def _clips_in_pool(output):
    tables_found = [pq.read_table(path, columns=["key"]) for path in (output / "pool" / "clips").glob("*.parquet")]
    return {key for table in tables_found for key in table.column("key").to_pylist()}


def test_the_same_bytes_under_other_names_stay_out(copied, victim, tmp_path):
    assert _takedown(copied, victim["uri"]) == 0
    assert _holds(copied, victim["source_id"]) == []
    before = _clips_in_pool(copied)
    again = tmp_path / "again"
    again.mkdir()
    shutil.copy(victim["uri"], again / "renamed.mp4")
    (again / "link.mp4").symlink_to(victim["uri"])
    os.link(again / "renamed.mp4", again / "hard.mp4")
    assert _curate([again], copied) == 0
    assert _clips_in_pool(copied) == before
    out = {Path(row["uri"]).name: row["reason"] for row in _rows(copied, "rejects") if str(again) in row["uri"]}
    assert out == dict.fromkeys(("renamed.mp4", "link.mp4", "hard.mp4"), "taken_down")


def test_copies_are_named_and_go_too_unless_told_otherwise(copied, victim, tmp_path, capsys):
    again = tmp_path / "again"
    again.mkdir()
    shutil.copy(victim["uri"], again / "copy.mp4")
    assert _curate([again], copied) == 0
    (copy,) = [row for row in _rows(copied, "rejects") if row["uri"] == str(again / "copy.mp4")]
    assert copy["reason"] == "exact"
    spared = Path(shutil.copytree(copied, tmp_path / "spared"))
    assert _takedown(copied, victim["uri"]) == 0
    said = capsys.readouterr().out
    assert "1 of the same bytes" in said
    assert copy["uri"] in said
    assert _holds(copied, copy["source_id"]) == _holds(copied, victim["source_id"]) == []

    assert _takedown(spared, victim["uri"], "--keep-copies") == 0
    assert "of the same bytes" not in capsys.readouterr().out
    assert _holds(spared, victim["source_id"]) == []
    assert copy["uri"] in {row["uri"] for row in _rows(spared, "manifest")}


def test_a_source_can_be_named_by_a_link_to_it_or_a_copy_of_it(copied, victim, tmp_path):
    (tmp_path / "link.mp4").symlink_to(victim["uri"])
    shutil.copy(victim["uri"], tmp_path / "copy.mp4")
    other = Path(shutil.copytree(copied, tmp_path / "other"))
    assert _takedown(copied, tmp_path / "link.mp4") == 0
    assert _takedown(other, tmp_path / "copy.mp4") == 0
    assert _holds(copied, victim["source_id"]) == _holds(other, victim["source_id"]) == []


def test_what_was_planned_and_not_done_yet_stays_out(copied, victim, tmp_path):
    """A run is killed after its plan was stored; the take-down comes between; the run goes on."""
    again = tmp_path / "again"
    again.mkdir()
    shutil.copy(victim["uri"], again / "planned.mp4")
    with (again / "planned.mp4").open("ab") as file:
        file.write(b"\0" * 8)  # other bytes, so that only its name is known
    source = Source.at(str(again / "planned.mp4"), Kind.VIDEO, (again / "planned.mp4").stat().st_size)
    extend_plan(Storage(str(copied / "pool")), [source], load_recipe(str(EVERYTHING), []).extract)
    assert _takedown(copied, source.uri) == 0
    before = _clips_in_pool(copied)
    assert _curate([again], copied) == 0
    assert _clips_in_pool(copied) == before
    shutil.move(again / "planned.mp4", again / "moved.mp4")
    assert _curate([again], copied) == 0
    assert _clips_in_pool(copied) == before


def test_nothing_is_left_where_a_commit_was_lost_nor_in_temporary_files(copied, victim):
    part = next(
        path.stem
        for path in (copied / "pool" / "clips").iterdir()
        if victim["key"] in pq.read_table(path).column("key").to_pylist()
    )
    (copied / "pool" / "_commits" / f"{part}.json").unlink()
    for folder in ("pool/shards", "datasets/default/shards"):
        (copied / folder / ".tmp-0123abcd-1-ff").write_bytes(f"{victim['key']}.mp4".encode())
    assert _takedown(copied, victim["uri"]) == 0
    assert _holds(copied, victim["source_id"]) == []


def test_unfinished_and_copied_datasets_are_rid_of_it_as_well(copied, victim):
    default = copied / "datasets" / "default"
    shutil.copytree(default, copied / "datasets" / "copied")
    half = Path(shutil.copytree(default, copied / "datasets" / "half"))
    for path in half.iterdir():
        if path.is_file() or path.name == "_packs":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    loose = next(half.rglob("*.tar"))
    shutil.copy(default / victim["shard"], loose.with_name("0" * 20 + "-00000.tar"))
    assert _takedown(copied, victim["uri"]) == 0
    assert _holds(copied, victim["source_id"]) == []
    assert _rows(copied, "manifest", "copied") == _rows(copied, "manifest")


def test_where_a_dataset_cannot_be_rewritten_nothing_claims_success(copied, victim, capsys):
    shutil.copytree(copied / "datasets" / "default", copied / "datasets" / "broken")
    recipe = copied / "datasets" / "broken" / "recipe.yaml"
    whole = recipe.read_bytes()
    recipe.write_bytes(b"\0\0")
    assert _takedown(copied, victim["uri"]) == 1
    said = capsys.readouterr()
    assert "took down" not in said.out
    assert str(copied / "datasets" / "broken") in said.err
    assert "may still hold" in said.err
    assert all("datasets/broken" in name for name in _holds(copied, victim["source_id"]))
    recipe.write_bytes(whole)
    assert _takedown(copied, victim["uri"]) == 0
    assert _holds(copied, victim["source_id"]) == []
