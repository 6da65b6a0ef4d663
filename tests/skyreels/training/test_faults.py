"""What ends a run, and what it says."""

import os

import pytest

from skyreels.storage import Storage
from skyreels.training.checkpoints import Checkpoints, open_checkpoint
from skyreels.training.config import CheckpointConfig, EngineConfig, GuardConfig
from skyreels.training.errors import TrainingError
from skyreels.training.events import Started, StepDone
from skyreels.training.run import fit


def settings(**changes):
    return EngineConfig(**({"steps": 40, "precision": "fp32", "workers": 1} | changes))


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_spares_the_last_checkpoint(ray_cluster, toy, small_disk):
    trainable = toy.Toy(width=120)  # 250 kB a checkpoint
    config = settings(checkpoint=CheckpointConfig(every_steps=1, keep=40))
    with pytest.raises(TrainingError, match=r"could not be written.*No space left.*is intact") as raised:
        fit(lambda: trainable, config, str(small_disk / "run"))
    checkpoints = Checkpoints.of(str(small_disk / "run"))
    last = checkpoints.latest()
    assert f"the checkpoint of step {last} is intact" in str(raised.value)
    assert checkpoints.problems(last, [0]) == []
    with open_checkpoint(str(small_disk / "run")) as checkpoint:
        assert checkpoint.weights()["inner.weight"].shape == (120, 7)


@pytest.mark.slow
def test_steps_that_fail_one_after_another_end_the_run_without_a_restart(ray_cluster, toy, tmp_path):
    trainable = toy.Toy(nan_at=tuple((step, 0) for step in range(2, 9)))
    events = []
    with pytest.raises(TrainingError, match=r"step 4: 3 steps in a row were skipped.*key-4-0"):
        fit(lambda: trainable, settings(guard=GuardConfig(max_skipped=3)), str(tmp_path), events.append)
    assert [event.step for event in events if isinstance(event, StepDone)] == [0, 1]
    assert len([event for event in events if isinstance(event, Started)]) == 1


@pytest.mark.slow
def test_a_run_on_s3_in_bf16(ray_cluster, toy, s3_root):
    fit(lambda: toy.Toy(), settings(precision="bf16", steps=3, ema=0.5, samples_every_steps=2), f"{s3_root}/run")
    names = Storage(f"{s3_root}/run").names("checkpoints") + Storage(f"{s3_root}/run").names("samples")
    assert names == [
        "checkpoints/_commits/step-00000003.json",
        "checkpoints/step-00000003/rank-00000.safetensors",
        "samples/step-00000002/out.txt",
    ]
    with open_checkpoint(f"{s3_root}/run") as checkpoint:
        weight = checkpoint.weights()["inner.weight"]
        moved = (weight - toy.toy_weights(13)["inner.weight"]).abs()
        assert 0 < moved.max() < 1e-3, "three steps of 1e-4 in fp32, which bf16 alone would round away"


def test_what_cannot_fit_is_refused_at_once(ray_cluster, toy, tmp_path):
    with pytest.raises(TrainingError, match=r"500 workers need 500 CPU; the cluster has 2"):
        fit(lambda: toy.Toy(), settings(workers=500), str(tmp_path))
    with pytest.raises(TrainingError, match=r"deepspeed=zero9: there is no .*known are zero3, zero3-cpu"):
        fit(lambda: toy.Toy(), settings(deepspeed="zero9"), str(tmp_path))
    assert os.listdir(tmp_path) == []
