"""A pool that is read in slices, on Ray: the same dataset as at once; take-down and verify reach its parts."""

import shutil
from pathlib import Path

import pytest

from jobs import curate
from pipelines.curation.slices import pool as slices
from pipelines.dataset.parts_of_table import table_of
from skyreels.storage import Storage

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

EVERYTHING = Path(__file__).with_name("everything.yaml")


@pytest.fixture
def sliced(curated, tmp_path, monkeypatch):
    """A copy of the small world's output whose pool is read in two slices."""
    output = Path(shutil.copytree(curated, tmp_path / "copy"))
    size = sum(path.stat().st_size for path in (output / "pool" / "clips").iterdir())
    monkeypatch.setattr(slices, "SLICE_BYTES", -(-size // 2))
    return output


def _run(*words):
    return curate.main([*map(str, words), "--quiet"])


def _rows(output, name, table="manifest"):
    rows = table_of(Storage(str(output / "datasets" / name)), f"{table}.parquet").to_pylist()
    placed = ("pack_id", "shard", "members")
    rows = [{name: value for name, value in row.items() if name not in placed} for row in rows]
    return sorted(rows, key=lambda row: (row["source_id"], str(row["key"]), row["start_s"]))


def test_a_pool_in_slices_is_curated_taken_down_and_verified(sliced, capsys):
    assert _run("refilter", "--output", sliced, "--recipe", EVERYTHING, "name=parts") == 0
    folder = sliced / "datasets" / "parts"
    assert len(list((folder / "manifest").glob("*.parquet"))) == 2
    assert _rows(sliced, "parts") == _rows(sliced, "default")
    assert _rows(sliced, "parts", "rejects") == _rows(sliced, "default", "rejects")

    capsys.readouterr()
    part = max((folder / "manifest").glob("*.parquet"))
    before = part.read_bytes()
    part.write_bytes(before[:-20] + bytes(20))
    assert _run("verify", "--output", sliced, "--dry-run") == 1
    assert str(part) in capsys.readouterr().out
    assert _run("verify", "--output", sliced) == 0
    assert part.read_bytes() == before

    gone = _rows(sliced, "parts")[0]["source_id"]
    assert _run("takedown", "--output", sliced, "--source", gone) == 0
    for name in ("parts", "default"):
        assert gone not in {row["source_id"] for row in _rows(sliced, name)}
    assert _rows(sliced, "parts") == _rows(sliced, "default")
    assert not list(sliced.glob("datasets/*/_work/**/*.parquet"))
