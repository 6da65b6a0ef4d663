"""Checkpoints on storage, without a run: written by some ranks, read by others."""

import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from skyreels.commits import describe
from skyreels.training.checkpoints import CheckpointFacts, Checkpoints, PieceReader, open_checkpoint, rank_file
from skyreels.training.errors import TrainingError
from skyreels.training.partition import bounds


def write(run, step, world, values, frozen=()):
    """A committed checkpoint of `values`, as `world` ranks leave it; its averages are the negated weights."""
    checkpoints, files = Checkpoints.of(str(run)), []
    for rank in range(world):
        tensors = {"buffer/scale": torch.tensor([float(step)])} if rank == 0 else {}
        for name, value in values.items():
            piece = value.reshape(-1)[slice(*bounds(value.numel(), rank, world))]
            kinds = {"frozen": piece} if name in frozen else {"weight": piece, "exp_avg": piece + 1, "ema": -piece}
            tensors |= {f"{kind}/{name}": tensor.clone() for kind, tensor in kinds.items() if tensor.numel()}
        with checkpoints.storage.staged(rank_file(step, rank)) as path:
            save_file(tensors, path)
            files.append(describe(rank_file(step, rank), path))
    shapes = {name: tuple(value.shape) for name, value in values.items()}
    facts = CheckpointFacts(
        step=step,
        world=world,
        updates=step,
        norms=(0.5,),
        shapes=shapes,
        frozen=tuple(frozen),
        holds_frozen=True,
        ema=True,
    )
    checkpoints.commit(facts, files)
    return checkpoints


shapes = st.lists(st.lists(st.integers(1, 6), min_size=0, max_size=3), min_size=1, max_size=4)


@settings(max_examples=25, deadline=None)
@given(shapes=shapes, writers=st.integers(1, 6), readers=st.integers(1, 6))
def test_any_number_of_ranks_reads_what_any_other_wrote(tmp_path_factory, shapes, writers, readers):
    values = {f"layer.{i}": torch.randn(shape) for i, shape in enumerate(shapes)}
    checkpoints = write(tmp_path_factory.mktemp("run"), 3, writers, values)
    read = {name: [] for name in values}
    for rank in range(readers):
        reader = PieceReader(checkpoints, 3)
        for name, value in values.items():
            read[name].append(reader.read("exp_avg", name, *bounds(value.numel(), rank, readers)))
        assert set(reader._files) <= reader.ranks_of(rank, readers), "a rank reads only what it has verified"
        reader.close()
    for name, value in values.items():
        assert torch.equal(torch.cat(read[name]).reshape(value.shape), value + 1)


def test_weights_come_whole_with_frozen_ones_and_buffers(tmp_path):
    values = {"a": torch.randn(3, 5), "b": torch.randn(1, 2)}
    write(tmp_path, 2, 4, values, frozen=("b",))
    with open_checkpoint(str(tmp_path)) as checkpoint:
        assert checkpoint.step == 2
        assert dict(checkpoint.weights()).keys() == {"a", "b", "scale"}
        assert torch.equal(checkpoint.weights()["a"], values["a"])
        averages = checkpoint.weights(ema=True)
        assert torch.equal(averages["a"], -values["a"])
        assert torch.equal(averages["b"], values["b"])
        assert averages["scale"].item() == 2.0
        with pytest.raises(KeyError, match="missing"):
            averages["missing"]


def test_a_checkpoint_is_there_when_its_commit_is(tmp_path):
    checkpoints = write(tmp_path, 2, 1, {"a": torch.randn(3)})
    with checkpoints.storage.staged(rank_file(4, 0)) as path:
        save_file({"weight/a": torch.zeros(3)}, path)
    assert checkpoints.latest() == 2
    with open_checkpoint(str(tmp_path)) as checkpoint:
        assert checkpoint.step == 2
    with pytest.raises(TrainingError, match="no checkpoint of step 4; it has 2"):
        open_checkpoint(str(tmp_path), step=4)
    checkpoints.sweep()
    assert checkpoints.storage.names() == ["_commits/step-00000002.json", "step-00000002/rank-00000.safetensors"]


def test_the_newest_stay(tmp_path):
    for step in (2, 4, 10, 100):
        checkpoints = write(tmp_path, step, 2, {"a": torch.randn(3)})
    checkpoints.retain(2)
    assert checkpoints.steps() == [10, 100]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "_commits",
        "step-00000010",
        "step-00000100",
    ]


def test_a_truncated_file_is_found(tmp_path):
    checkpoints = write(tmp_path, 2, 2, {"a": torch.randn(30)})
    path = tmp_path / "checkpoints" / rank_file(2, 1)
    path.write_bytes(path.read_bytes()[:-4])
    assert checkpoints.problems(2, [0]) == []
    assert checkpoints.problems(2, [0, 1]) == [f"{path} differs from its committed checksum"]


def test_a_run_without_a_checkpoint(tmp_path):
    assert Checkpoints.of(str(tmp_path / "nowhere")).latest() is None
    with pytest.raises(TrainingError, match="has no committed checkpoint: train there first"):
        open_checkpoint(str(tmp_path / "nowhere"))


def flip(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def spoil(run, step, how):
    """Damage the checkpoint of a step as disks and people do."""
    record = run / "checkpoints" / "_commits" / f"step-{step:08d}.json"
    folder = run / "checkpoints" / f"step-{step:08d}"
    {
        "empty record": lambda: record.write_bytes(b""),
        "garbage record": lambda: record.write_bytes(b"\xff\x00{"),
        "no folder": lambda: shutil.rmtree(folder),
        "no file": (folder / "rank-00001.safetensors").unlink,
        "flipped": lambda: flip(folder / "rank-00001.safetensors"),
    }[how]()


DAMAGES = ("empty record", "garbage record", "no folder", "no file", "flipped")


@pytest.mark.parametrize("how", DAMAGES)
def test_of_a_damaged_checkpoint_nothing_is_read_and_the_one_before_counts(tmp_path, how, caplog):
    values = {step: torch.randn(30) for step in (2, 4)}
    for step, value in values.items():
        checkpoints = write(tmp_path, step, 2, {"a": value})
    spoil(tmp_path, 4, how)
    seen = []
    assert checkpoints.newest_sound(seen.append) == 2
    assert [damaged.step for damaged in seen] == [4]
    with open_checkpoint(str(tmp_path)) as checkpoint:
        assert checkpoint.step == 2
        assert torch.equal(checkpoint.weights()["a"], values[2])
    assert "step 4 is damaged" in caplog.text
    with pytest.raises(TrainingError, match=r"step 4 is damaged: .*Run the same command again"):
        open_checkpoint(str(tmp_path), 4)


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_can_be_discarded(tmp_path, how):
    checkpoints = write(tmp_path, 4, 2, {"a": torch.randn(30)})
    spoil(tmp_path, 4, how)
    checkpoints.discard(4)
    checkpoints.sweep()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["_commits"]
    with pytest.raises(TrainingError, match="no committed checkpoint"):
        open_checkpoint(str(tmp_path))


def test_what_others_leave_beside_checkpoints_stops_nothing(tmp_path):
    for step in (2, 4, 6):
        checkpoints = write(tmp_path, step, 1, {"a": torch.randn(3)})
    place = tmp_path / "checkpoints"
    for path in ("step-00000002/.DS_Store", "step-00000004/._rank-00000.safetensors", "_commits/.DS_Store",
                 "_commits/step-00000002 copy.json", "_commits/notes.json", ".DS_Store", "notes.txt"):  # fmt: skip
        (place / path).write_bytes(b"x")
    (place / "step-00000002" / ".AppleDouble").mkdir()
    assert checkpoints.steps() == [2, 4, 6]
    checkpoints.retain(1)
    assert checkpoints.steps() == [6]
    assert not (place / "step-00000002").exists()
    assert not (place / "step-00000004").exists()
    checkpoints.sweep()
    assert (place / "notes.txt").exists()


def test_what_a_kill_left_of_a_checkpoint_is_swept_even_if_nothing_of_it_can_be_listed(tmp_path):
    checkpoints = write(tmp_path, 2, 1, {"a": torch.randn(3)})
    (tmp_path / "checkpoints" / "step-00000004").mkdir()
    (tmp_path / "checkpoints" / "step-00000004" / ".tmp-0123").write_bytes(b"half")
    checkpoints.sweep()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["_commits", "step-00000002"]
