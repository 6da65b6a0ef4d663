"""Runs on real Ray workers: against a plain PyTorch loop, killed, stopped, on other numbers of workers."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch

from skyreels.training.checkpoints import Checkpoints, open_checkpoint, rank_file
from skyreels.training.config import CheckpointConfig, EngineConfig, GuardConfig, OptimizerConfig, ScheduleConfig
from skyreels.training.errors import TrainingError
from skyreels.training.events import (
    CheckpointDamaged,
    HeldOut,
    SamplesUnreadable,
    SamplesWritten,
    Started,
    StepDone,
    StepSkipped,
)
from skyreels.training.fit import fit
from skyreels.training.zero import load_settings

pytestmark = pytest.mark.slow

STEPS = 12
NAN_STEP = 7
DECAY = 0.5  # the ramp reaches it after eight updates
EPS = 1e-3
"""Large enough that early steps do not turn the rounding of a gradient near nothing into a whole step."""


def settings(**changes):
    given = {
        "steps": STEPS,
        "precision": "fp32",
        "workers": 2,
        "ema": DECAY,
        "optimizer": OptimizerConfig(learning_rate=0.02, eps=EPS),
        "schedule": ScheduleConfig(kind="cosine", warmup_steps=2, final=0.1),
        "clip": 0.2,
        "checkpoint": CheckpointConfig(every_steps=4, keep=3),
    }
    return EngineConfig(**(given | changes))


def losses(events):
    """By step; where a step was done again after a restart, the later one."""
    return {event.step: event.metrics["loss"] for event in events if isinstance(event, StepDone)}


@pytest.fixture(scope="module")
def undisturbed(ray_cluster, toy, tmp_path_factory):
    """A run to its end on two workers, with a checkpoint of every step: its folder and its events."""
    run, events = tmp_path_factory.mktemp("undisturbed"), []
    trainable = toy.Toy(nan_at=((NAN_STEP, 1),), unreadable_at=((3, 2),))
    config = settings(checkpoint=CheckpointConfig(every_steps=1, keep=STEPS), samples_every_steps=6)

    def observe(event):
        events.append(event)
        if isinstance(event, Started):
            assert "ray::TrainController" in ray_processes()
            assert "ray::PlacementGroupCleaner" not in ray_processes(), "this Ray ends with this process"

    outcome = fit(lambda: trainable, config, str(run), observe)
    assert (outcome.step, outcome.stopped, outcome.restarts) == (STEPS, False, 0)
    return run, events


def ray_processes():
    """Their names, of the cluster that this process has started: `ray::Class` or `ray::Class.method`."""
    names = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            names.update(word.split(".")[0] for word in process.cmdline()[:1] if word.startswith("ray::"))
    return names


def plain_loop(toy):
    """The same training, written down plainly on one process. (losses, weights, averages) after the last step."""
    module = toy.ToyModule(13)
    module.load_state_dict(toy.toy_weights(13))
    trained = [param for param in module.parameters() if param.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.02, betas=(0.9, 0.95), eps=EPS, weight_decay=0.0)
    averages = {name: value.clone() for name, value in module.state_dict().items()}
    found = {}
    cosine = [0.5 + 0.5 * torch.cos(torch.tensor(torch.pi * i / 9)).item() for i in range(10)]
    rates = [0.01, 0.02] + [0.02 * (0.1 + 0.9 * value) for value in cosine]
    for step in range(STEPS):
        if step == NAN_STEP:
            continue
        optimizer.param_groups[0]["lr"] = rates[step]
        optimizer.zero_grad()
        loss = sum(toy.toy_loss(module, toy.toy_batch(step, slot)) for slot in range(toy.SLOTS)) / toy.SLOTS
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.2)
        optimizer.step()
        found[step] = loss.item()
        decay = min(DECAY, (1 + len(found)) / (10 + len(found)))
        for name, value in module.state_dict().items():
            averages[name] = decay * averages[name] + (1 - decay) * value
    return found, module.state_dict(), averages


def test_it_trains_as_a_plain_loop_does(undisturbed, toy):
    run, events = undisturbed
    expected_losses, weights, averages = plain_loop(toy)
    assert losses(events) == pytest.approx(expected_losses, rel=1e-5)
    with open_checkpoint(str(run)) as checkpoint:
        assert checkpoint.step == STEPS
        for expected, ema in ((weights, False), (averages, True)):
            found = checkpoint.weights(ema=ema)
            assert set(found) == set(expected)
            for name in expected:
                torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-6)


def test_start_and_both_kinds_of_weights_are_compared_on_what_is_held_out(undisturbed, toy):
    """Against losses that the plain modules have; and nothing of it changes what is trained (see the test before)."""
    run, events = undisturbed
    _, weights, averages = plain_loop(toy)
    expected = {}
    for name, state in (("start", toy.toy_weights(13)), ("trained", weights), ("averaged", averages)):
        module = toy.ToyModule(13)
        module.load_state_dict(state)
        expected[name] = toy.toy_loss(module, toy.toy_batch(-1, 0)).item()
    first, last = [event for event in events if isinstance(event, HeldOut)]
    assert (first.step, first.losses) == (0, pytest.approx({"start": expected["start"]}, rel=1e-5))
    assert (last.step, last.losses) == (STEPS, pytest.approx(expected, rel=1e-5))
    with open_checkpoint(str(run)) as checkpoint:
        assert checkpoint.held_out == last.losses
        best = min(("averaged", "trained"), key=expected.__getitem__)
        assert checkpoint.better == best
        chosen = checkpoint.better_weights()
        torch.testing.assert_close(
            chosen["inner.weight"], (averages if best == "averaged" else weights)["inner.weight"], rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("workers", [0, 2])
def test_layers_gathered_as_they_are_needed_and_one_rank_in_this_process_train_alike(
    undisturbed, toy, tmp_path, workers
):
    """The CPU's settings keep weights gathered between updates; with a threshold of 0 every layer comes and goes.

    The two ranks are asked to stop in their last step but one, and end together after it.
    """
    template = load_settings(settings())
    template["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    gathering = tmp_path / "gathering.json"
    gathering.write_text(json.dumps(template))
    events = []
    config = settings(workers=workers, deepspeed=str(gathering) if workers else "auto", samples_every_steps=5)

    def stop(event):
        events.append(event)
        if workers and isinstance(event, StepDone) and event.step == STEPS - 3:
            os.kill(os.getpid(), signal.SIGTERM)

    trainable = toy.Toy(nan_at=((NAN_STEP, 1),), hold_at=STEPS - 2 if workers else None)
    outcome = fit(lambda: trainable, config, str(tmp_path / "run"), stop)
    done = STEPS - 1 if workers else STEPS
    assert (outcome.step, outcome.stopped, outcome.restarts) == (done, done < STEPS, 0)
    assert [event.workers for event in events if isinstance(event, Started)] == [max(workers, 1)]
    wanted = losses(undisturbed[1])
    assert losses(events) == pytest.approx({step: wanted[step] for step in wanted if step < done}, rel=1e-5)
    samples = [Path(event.files[-1]).read_text() for event in events if isinstance(event, SamplesWritten)]
    assert len(samples) == len(set(samples)) == len(range(5, done, 5)) + (not workers)


def test_a_step_with_a_nan_leaves_every_bit_as_it_was(undisturbed, tensors_of):
    run, events = undisturbed
    before, after = tensors_of(run, NAN_STEP), tensors_of(run, NAN_STEP + 1)
    assert {key.split("/")[0] for _, key in before} == {"weight", "exp_avg", "exp_avg_sq", "ema", "frozen", "buffer"}
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    changed = tensors_of(run, NAN_STEP + 2)
    assert not any(torch.equal(changed[key], after[key]) for key in changed if key[1].startswith(("weight", "ema")))
    (skipped,) = [event for event in events if isinstance(event, StepSkipped)]
    assert skipped.step == NAN_STEP
    assert "not finite" in skipped.reason
    assert set(skipped.keys) == {f"key-{NAN_STEP}-{slot}" for slot in range(4)}


def test_events_say_what_went_on(undisturbed):
    run, events = undisturbed
    (started,) = [event for event in events if isinstance(event, Started)]
    assert (started.workers, started.accumulation, started.step) == (2, 2, 0)
    assert (started.parameters, started.trainable_parameters) == (13 * 8 + 13 * 14 + 5 * 14, 13 * 8 + 5 * 14)
    (unreadable,) = [event for event in events if isinstance(event, SamplesUnreadable)]
    assert (unreadable.step, unreadable.reasons) == (3, ("broken-3: truncated",))
    samples = [event for event in events if isinstance(event, SamplesWritten)]
    assert [event.step for event in samples] == [6, 12]
    folder = f"{run}/samples/step-00000006"
    assert samples[0].files == (f"{folder}/idle.txt", f"{folder}/out.txt")
    assert Path(samples[0].files[0]).read_text() == "[]", "loaded, and nobody asks for it"
    assert Path(samples[0].files[1]).read_text() != Path(samples[1].files[1]).read_text()
    done = [event for event in events if isinstance(event, StepDone)]
    assert [event.step for event in done] == [step for step in range(STEPS) if step != NAN_STEP]
    for metrics in (event.metrics for event in done):
        assert metrics["loss/toy"] == pytest.approx(metrics["loss"], rel=1e-6)
        assert metrics["tokens_per_second"] == pytest.approx(4 * 6 / metrics["step_seconds"])
        assert 0 <= metrics["data_wait"] < 1


def test_workers_killed_in_a_step_and_in_the_writing_of_a_checkpoint(undisturbed, toy, tensors_of, tmp_path):
    """Of checkpoints without what does not train, from which a run goes on as from any other."""
    reference, reference_events = undisturbed
    trainable = toy.Toy(nan_at=((NAN_STEP, 1),), kill_at=(2, 1), kill_in_write_of=8, scratch=str(tmp_path))
    events = []
    config = settings(checkpoint=CheckpointConfig(every_steps=4, keep=3, frozen=False))
    outcome = fit(lambda: trainable, config, str(tmp_path / "run"), events.append)
    assert (tmp_path / "kill").exists()
    assert (tmp_path / "write").exists()
    assert (outcome.step, outcome.restarts) == (STEPS, 2)
    assert [event.step for event in events if isinstance(event, Started)] == [0, 0, 4]
    assert losses(events) == losses(reference_events)
    wanted, found = tensors_of(reference, STEPS), tensors_of(tmp_path / "run", STEPS)
    assert found.keys() == {key for key in wanted if not key[1].startswith("frozen/")}
    assert all(torch.equal(found[key], wanted[key]) for key in found)
    with open_checkpoint(str(tmp_path / "run")) as checkpoint:
        assert set(checkpoint.weights()) == set(toy.toy_weights(13)) - {"frozen.weight", "frozen.bias"}


DRIVER = """
import sys
sys.path.insert(0, sys.argv[2])
import toy
from ray import cloudpickle
from skyreels import cluster
from skyreels.training.fit import fit
from skyreels.training.config import EngineConfig
cloudpickle.register_pickle_by_value(toy)
config = EngineConfig.model_validate_json(sys.argv[3])
with cluster.connect():
    fit(lambda: toy.Toy(nan_at=((7, 1),), pause_s=0.3), config, sys.argv[1])
"""


def test_the_driver_is_killed_then_one_worker_goes_on_then_two(undisturbed, ray_cluster, toy, tensors_of, tmp_path):
    reference, reference_events = undisturbed
    run, checkpoints = str(tmp_path / "run"), Checkpoints.of(str(tmp_path / "run"))
    config = settings(checkpoint=CheckpointConfig(every_steps=2, keep=5))
    command = [sys.executable, "-c", DRIVER, run, str(Path(__file__).parent), config.model_dump_json()]
    with subprocess.Popen(command, env=os.environ | {"RAY_ADDRESS": ray_cluster}) as driver:
        deadline = time.monotonic() + 120
        while 4 not in checkpoints.steps() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "ray::PlacementGroupCleaner" in ray_processes(), "a Ray that is joined outlives its drivers"
        driver.kill()
    first = checkpoints.latest()
    assert first in range(4, STEPS)
    expected, found = tensors_of(reference, first), tensors_of(run, first)
    assert all(torch.equal(expected[key], found[key]) for key in expected)

    events = []

    def stop_after_nine(event):
        events.append(event)
        if isinstance(event, StepDone) and event.step == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    trainable = toy.Toy(nan_at=((NAN_STEP, 1),), hold_at=9)
    outcome = fit(lambda: trainable, config.model_copy(update={"workers": 1}), run, stop_after_nine)
    assert outcome.stopped
    assert outcome.step == 10
    assert outcome.checkpoint == checkpoints.location(outcome.step)

    with open(checkpoints.storage.location(rank_file(outcome.step, 0)), "r+b") as file:
        file.truncate(200)
    outcome = fit(lambda: toy.Toy(), config, run, events.append)
    assert outcome.step == STEPS
    starts = [event for event in events if isinstance(event, Started)]
    assert [event.workers for event in starts] == [1, 2]
    assert starts[1].step == 8
    (damaged,) = [event for event in events if isinstance(event, CheckpointDamaged)]
    assert "differs from its committed checksum" in damaged.problems[0]
    wanted = losses(reference_events)
    assert losses(events) == pytest.approx({step: wanted[step] for step in losses(events)}, rel=1e-5)
    with open_checkpoint(str(reference)) as one, open_checkpoint(run) as other:
        for name, weight in one.weights(ema=True).items():
            torch.testing.assert_close(other.weights(ema=True)[name], weight, rtol=1e-4, atol=1e-6)
    assert starts[1].state_bytes <= 0.6 * starts[0].state_bytes


def test_a_finished_run_whose_last_checkpoint_is_damaged_goes_on_from_the_one_before(toy, tmp_path):
    """Found only by looking at the files, before it is settled who trains: the test before has workers."""
    config = EngineConfig(
        steps=6, precision="fp32", workers=0, checkpoint=CheckpointConfig(every_steps=4, keep=2), guard=GuardConfig()
    )
    run = str(tmp_path)
    assert fit(lambda: toy.Toy(), config, run).step == 6
    checkpoints = Checkpoints.of(run)
    whole = checkpoints.storage.read(rank_file(6, 0))
    spoiled = bytearray(whole)
    spoiled[-1] ^= 1
    checkpoints.storage.write(rank_file(6, 0), bytes(spoiled))
    events = []
    assert fit(lambda: toy.Toy(), config, run, events.append).step == 6
    assert {event.step for event in events if isinstance(event, CheckpointDamaged)} == {6}
    assert [event.step for event in events if isinstance(event, Started)] == [4]
    assert checkpoints.damage(6) == []
    for step in (4, 6):
        checkpoints.storage.write(f"_commits/step-{step:08d}.json", b"")
    for _ in range(2):
        with pytest.raises(TrainingError, match=r"none of the checkpoints .* is sound"):
            fit(lambda: toy.Toy(), config, run)
    assert len(checkpoints.steps()) == 2, "what may be restored by hand is not deleted"
