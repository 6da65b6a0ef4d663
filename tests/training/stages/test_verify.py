"""A training output with damage of every kind, found by comparing bytes; what can be made again is marked so."""

import pytest
import torch
from safetensors.torch import save_file

from jobs import train
from model.checksums import seal
from model.folder import ModelIndex
from pipelines.training.curriculum.order import RECORD
from pipelines.training.stages.verify import find_damage
from skyreels.commits import Commit, CommitLog, describe
from skyreels.storage import Storage
from skyreels.training.checkpoints import CheckpointFacts, Checkpoints, rank_file


@pytest.fixture
def output(tmp_path):
    """One stage with two checkpoints and an export, and a cache of two parts."""
    stage = tmp_path / "video-1"
    for step in (2, 4):
        checkpoints = Checkpoints.of(str(stage))
        with checkpoints.storage.staged(rank_file(step, 0)) as path:
            save_file({"weight/a": torch.randn(30)}, path)
            file = describe(rank_file(step, 0), path)
        facts = CheckpointFacts(
            step=step, world=1, updates=step, norms=(), shapes={"a": (30,)}, frozen=(), holds_frozen=True, ema=False
        )
        checkpoints.commit(facts, [file])
    (stage / "run.json").write_text('{"caches": {}}')
    export = stage / "export"
    (export / "transformer").mkdir(parents=True)
    save_file({"a": torch.randn(30)}, export / "transformer" / "weights.safetensors")
    seal(export / "transformer")
    ModelIndex(()).write(export)
    cache = Storage(str(tmp_path / "latents" / "base-0"))
    for part in ("one", "two"):
        with cache.staged(f"shards/{part}-00000.tar") as path:
            path.write_bytes(part.encode() * 500)
            file = describe(f"shards/{part}-00000.tar", path)
        CommitLog(cache).commit(Commit(part_id=part, files=(file,)))
    return tmp_path


def _flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _verify(output, *words):
    return train.main(["verify", "--output", str(output), *words])


def test_an_undamaged_output(output, capsys):
    assert find_damage(output) == []
    assert _verify(output) == 0
    assert "everything is as it was written" in capsys.readouterr().out


def test_parts_of_caches_and_checkpoints_with_another_beside_them_are_marked_to_be_redone(output, capsys):
    shard = output / "latents/base-0/shards/two-00000.tar"
    _flip(shard)
    rank = output / "video-1/checkpoints" / rank_file(4, 0)
    _flip(rank)
    assert _verify(output, "--dry-run") == 1
    assert CommitLog(Storage(str(output / "latents/base-0"))).done() == {"one", "two"}
    assert _verify(output) == 0
    said = capsys.readouterr().out
    assert f"{shard} differs" in said
    assert f"{rank} differs" in said
    assert "that of step 2 counts" in said
    assert CommitLog(Storage(str(output / "latents/base-0"))).done() == {"one"}
    assert Checkpoints.of(str(output / "video-1")).steps() == [2]
    assert _verify(output) == 0


def test_the_only_checkpoint_left_is_not_given_up(output, capsys):
    for step in (2, 4):
        _flip(output / "video-1/checkpoints" / rank_file(step, 0))
    assert _verify(output) == 1
    assert capsys.readouterr().out.count("restore it from a copy") == 2
    assert Checkpoints.of(str(output / "video-1")).steps() == [2, 4]


@pytest.mark.parametrize(
    "name", ["export/transformer/weights.safetensors", "export/model_index.json", RECORD, "run.json"]
)
def test_damaged_exports_and_records_are_told_with_what_would_help(output, capsys, name):
    path = output / "video-1" / name
    if name.endswith(".safetensors"):
        _flip(path)
    else:
        path.write_bytes(b"\xff")
    assert _verify(output) == 1
    said = capsys.readouterr().out
    assert str(path.parent) in said
    assert "finished.json" in said or "delete" in said


def test_a_folder_that_is_not_there(tmp_path, capsys):
    assert _verify(tmp_path / "nowhere") == 1
    assert "does not exist" in capsys.readouterr().err
