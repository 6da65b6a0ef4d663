"""Bytes that rot, files that vanish, disks that fill: what a user sees of a curated output, and what mends it."""

import json
import shutil
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import webdataset as wds

from jobs import curate
from pipelines.dataset.tables import encode, members_of
from skyreels.shards import read_member
from skyreels.storage import Storage

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

EVERYTHING = Path(__file__).with_name("everything.yaml")


@pytest.fixture
def copied(curated, tmp_path):
    return Path(shutil.copytree(curated, tmp_path / "copy"))


def _run(*words):
    return curate.main([*map(str, words), "--quiet"])


def _curate(world, output, *words):
    return _run("--input", world, "--output", output, "--recipe", EVERYTHING, "--no-tracking", *words)


def _manifest(output, name="default"):
    return pq.read_table(Path(output) / "datasets" / name / "manifest.parquet").to_pylist()


def _rejects(output, name="default"):
    return pq.read_table(Path(output) / "datasets" / name / "rejects.parquet").to_pylist()


def _bytes(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*.tar")}


def _flip(path, offset):
    with Path(path).open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def _place(output, kind="video"):
    """A kept clip, and where its picture lies in the pool: (key, source, shard, an offset within)."""
    kept = next(row for row in _manifest(output) if row["kind"] == kind)
    clips = [row for path in (output / "pool" / "clips").iterdir() for row in pq.read_table(path).to_pylist()]
    row = next(row for row in clips if row["key"] == kept["key"])
    member = members_of(row)["mp4"]
    return kept["key"], kept["uri"], output / "pool" / member.shard, member.offset + member.size // 2


def test_rot_in_the_pool_never_reaches_a_dataset_and_verify_mends_it(copied, capsys):
    before = _bytes(copied)
    key, _, shard, offset = _place(copied)
    _flip(shard, offset)
    assert _run("refilter", "--output", copied, "--recipe", EVERYTHING, "name=other") == 0
    assert key not in {row["key"] for row in _manifest(copied, "other")}
    rows = [row for row in _rejects(copied, "other") if row["key"] == key]
    assert [(row["stage"], row["reason"]) for row in rows] == [("pool", "damaged")]
    assert "verify" in rows[0]["remedy"]
    assert str(shard) in rows[0]["detail"]
    assert key in {row["key"] for row in _manifest(copied)}, "what was delivered is not taken back"

    assert _run("verify", "--output", copied, "--dry-run") == 1
    assert f"{shard} differs from its committed checksum" in capsys.readouterr().out
    assert _run("verify", "--output", copied) == 0
    after = _bytes(copied)
    assert {name: after[name] for name in before} == before
    assert key in {row["key"] for row in _manifest(copied, "other")}
    assert _run("verify", "--output", copied) == 0
    assert "everything is as it was written" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["flipped", "gone", "empty"])
def test_shards_of_a_dataset_are_written_again(copied, small_world, damage):
    before = _bytes(copied)
    shard = max((copied / "datasets").rglob("*.tar"), key=lambda path: path.stat().st_size)
    if damage == "flipped":
        _flip(shard, 2000)
        assert _run("verify", "--output", copied) == 0
    else:
        shard.unlink() if damage == "gone" else shard.write_bytes(b"")
        assert _curate(small_world, copied) == 0
    assert _bytes(copied) == before
    assert len({s["__key__"] for s in wds.WebDataset([str(shard)], shardshuffle=False)}) > 0


@pytest.mark.parametrize("what", ["pool/_commits", "pool/clips", "pool/sources", "pool/shards", "layers"])
def test_a_zeroed_file_is_told_and_made_again(copied, small_world, what):
    before = _bytes(copied)
    manifest = _manifest(copied)
    for path in sorted((copied / what).rglob("*"))[:3]:
        if path.is_file():
            path.write_bytes(b"")
    assert _curate(small_world, copied) == 0
    assert _bytes(copied) == before
    assert _manifest(copied) == manifest


@pytest.mark.parametrize("name", ["manifest.parquet", "rejects.parquet", "report.html", "_packs", "_commits"])
@pytest.mark.parametrize("content", [b"", b"\xff\x00garbage" * 9])
def test_a_damaged_account_of_a_dataset_is_written_again(copied, name, content):
    manifest, before = _manifest(copied), _bytes(copied)
    place = copied / "datasets" / "default" / name
    for path in sorted(place.iterdir()) if place.is_dir() else [place]:
        path.write_bytes(content)
    assert _run("refilter", "--output", copied, "--recipe", EVERYTHING) == 0
    assert _manifest(copied) == manifest
    assert _bytes(copied) == before
    assert _run("verify", "--output", copied, "--dry-run") == 0


def test_what_cannot_be_made_again_is_told_with_what_would_help(copied, small_world, tmp_path, capsys):
    """The sources are gone: the damaged clip is named, the neighbours stay, and nothing claims success."""
    key, _, shard, offset = _place(copied)
    manifest = _manifest(copied)
    plan = next((copied / "pool" / "_plan").iterdir())
    moved = encode(_moved(pq.read_table(plan), str(small_world), str(tmp_path / "elsewhere")))
    plan.write_bytes(moved)
    _flip(shard, offset)
    assert _run("verify", "--output", copied) == 1
    said = capsys.readouterr().err
    assert str(shard) in said
    assert "put them back" in said
    assert {row["key"] for row in _manifest(copied)} >= {row["key"] for row in manifest} - {key}


def _moved(table, before, after):
    column = [text.replace(before, after) for text in table.column("source").to_pylist()]
    return table.set_column(table.column_names.index("source"), "source", [column])


@pytest.mark.parametrize("content", [b"", b"\xff\x00garbage" * 9])
def test_a_damaged_plan_and_list_of_takedowns_are_named(copied, small_world, capsys, content):
    plan = next((copied / "pool" / "_plan").iterdir())
    whole = plan.read_bytes()
    plan.write_bytes(content)
    assert _curate(small_world, copied) == 1
    said = capsys.readouterr().err
    assert str(plan) in said
    assert "delete it and curate the same inputs again" in said
    plan.unlink()
    before = _bytes(copied)
    assert _curate(small_world, copied) == 0
    assert _bytes(copied) == before
    assert next((copied / "pool" / "_plan").iterdir()).read_bytes() == whole
    (copied / "taken_down.json").write_bytes(content)
    assert _curate(small_world, copied) == 1
    assert "taken_down.json is damaged" in capsys.readouterr().err


def test_verifying_a_folder_that_is_no_output_is_an_error(tmp_path, capsys):
    assert _run("verify", "--output", tmp_path) == 1
    assert "holds no pool" in capsys.readouterr().err


def test_a_full_disk_while_packing_is_a_sentence_and_the_next_run_finishes(curated, small_disk, capsys):
    """The pool fits on the disk and its copy, the dataset, does not."""
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    output = Path(shutil.copytree(curated, small_disk / "out"))
    before = _bytes(output)
    shutil.rmtree(output / "datasets")
    used = sum(path.stat().st_blocks * 512 for path in output.rglob("*"))
    subprocess.run(["mount", "-o", f"remount,size={used + (64 << 10)}", str(small_disk)], check=True)
    assert _run("refilter", "--output", output, "--recipe", EVERYTHING) == 1
    said = capsys.readouterr().err
    assert "No space left" in said
    assert "run the same command again" in said
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    assert _run("refilter", "--output", output, "--recipe", EVERYTHING) == 0
    assert _bytes(output) == before


def test_the_bytes_of_a_pool_member_are_what_its_row_says(curated):
    """CRC-32 in the rows against a zlib of our own."""
    import zlib

    store = Storage(str(curated / "pool"))
    for path in (curated / "pool" / "clips").iterdir():
        for row in pq.read_table(path).to_pylist():
            for member in members_of(row).values():
                assert zlib.crc32(read_member(store, member)) == member.crc32
    assert json.loads(_manifest(curated)[0]["members"])
