"""What ends a run, and what it says."""

import os

import pytest

from skyreels.storage import Storage
from skyreels.training.checkpoints import Checkpoints, open_checkpoint
from skyreels.training.config import CheckpointConfig, EngineConfig, GuardConfig
from skyreels.training.errors import TrainingError
from skyreels.training.events import Started, StepDone
from skyreels.training.fit import fit


def settings(**changes):
    return EngineConfig(**({"steps": 40, "precision": "fp32", "workers": 1} | changes))


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_spares_the_last_checkpoint(ray_cluster, toy, small_disk):
    trainable = toy.Toy(width=120)  # 250 kB a checkpoint
    config = settings(checkpoint=CheckpointConfig(every_steps=1, keep=40))
    events = []
    with pytest.raises(TrainingError, match=r"could not be written.*No space left.*is intact") as raised:
        fit(lambda: trainable, config, str(small_disk / "run"), events.append)
    assert len([event for event in events if isinstance(event, Started)]) == 1, "no restart would meet another disk"
    checkpoints = Checkpoints.of(str(small_disk / "run"))
    last = checkpoints.latest()
    assert f"the checkpoint of step {last} is intact" in str(raised.value)
    assert checkpoints.problems(last, [0]) == []
    with open_checkpoint(str(small_disk / "run")) as checkpoint:
        assert checkpoint.weights()["inner.weight"].shape == (120, 7)


def test_steps_that_fail_one_after_another_end_the_run(toy, tmp_path):
    trainable = toy.Toy(nan_at=tuple((step, 0) for step in range(2, 9)))
    events = []
    with pytest.raises(TrainingError, match=r"step 4: 3 steps in a row were skipped.*key-4-0"):
        fit(lambda: trainable, settings(workers=0, guard=GuardConfig(max_skipped=3)), str(tmp_path), events.append)
    assert [event.step for event in events if isinstance(event, StepDone)] == [0, 1]


@pytest.mark.slow
def test_a_worker_told_to_end_leaves_a_checkpoint_on_s3_in_bf16(ray_cluster, toy, s3_root):
    trainable, run = toy.Toy(sigterm_at=(3, 0), pause_s=0.05), f"{s3_root}/run"
    outcome = fit(lambda: trainable, settings(precision="bf16", steps=500, ema=0.5, samples_every_steps=2), run)
    assert outcome.stopped
    assert outcome.restarts == 0
    assert 4 <= outcome.step < 400
    checkpoint = f"checkpoints/step-{outcome.step:08d}/rank-00000.safetensors"
    assert Storage(run).exists("samples/step-00000002/out.txt")
    assert Storage(run).names("checkpoints") == [f"checkpoints/_commits/step-{outcome.step:08d}.json", checkpoint]
    with open_checkpoint(run) as found:
        moved = found.weights()["inner.weight"] - toy.toy_weights(13)["inner.weight"].bfloat16().float()
        assert (moved != 0).all(), "in fp32 every weight moves; of bf16's, steps of 1e-4 leave many where they are"


def test_what_cannot_fit_is_refused_at_once(ray_cluster, toy, tmp_path):
    with pytest.raises(TrainingError, match=r"500 workers need 500 CPU; the cluster has 2"):
        fit(lambda: toy.Toy(), settings(workers=500), str(tmp_path))
    with pytest.raises(TrainingError, match=r"deepspeed=zero9: there is no .*known are zero3, zero3-cpu"):
        fit(lambda: toy.Toy(), settings(deepspeed="zero9"), str(tmp_path))
    assert os.listdir(tmp_path) == []
