"""One device in this process: equal to the engine, resumed, stopped, in bf16, without Ray and DeepSpeed."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from skyreels.training.checkpoints import open_checkpoint
from skyreels.training.config import CheckpointConfig, EngineConfig, OptimizerConfig, ScheduleConfig
from skyreels.training.errors import TrainingError
from skyreels.training.events import HeldOut, SamplesWritten, Started, StepDone, StepSkipped
from skyreels.training.fit import fit

STEPS = 10
NAN = ((6, 1),)


def settings(**changes):
    given = {
        "steps": STEPS,
        "precision": "fp32",
        "workers": 0,
        "ema": 0.5,
        "optimizer": OptimizerConfig(learning_rate=0.02, weight_decay=0.1),
        "schedule": ScheduleConfig(kind="cosine", warmup_steps=2, final=0.1),
        "clip": 0.2,
        "checkpoint": CheckpointConfig(every_steps=2, keep=STEPS),
        "samples_every_steps": 5,
    }
    return EngineConfig(**(given | changes))


def trained(toy, run, events=None, **changes):
    events = [] if events is None else events
    outcome = fit(lambda: toy.Toy(nan_at=NAN), settings(**changes), str(run), events.append)
    return outcome, events


def losses(events):
    return {event.step: event.metrics["loss"] for event in events if isinstance(event, StepDone)}


def weights(run, step=None, ema=False):
    with open_checkpoint(str(run), step) as checkpoint:
        return {name: tensor.clone() for name, tensor in checkpoint.weights(ema=ema).items()}


@pytest.fixture(scope="module")
def here(toy, tmp_path_factory):
    run = tmp_path_factory.mktemp("here")
    outcome, events = trained(toy, run)
    assert (outcome.step, outcome.stopped, outcome.restarts) == (STEPS, False, 0)
    return run, events


def test_events_are_those_of_the_engine(here):
    _, events = here
    (started,) = [event for event in events if isinstance(event, Started)]
    assert (started.workers, started.accumulation, started.parameters) == (1, 4, 13 * 8 + 13 * 14 + 5 * 14)
    assert started.trainable_parameters == 13 * 8 + 5 * 14
    assert [event.step for event in events if isinstance(event, StepSkipped)] == [6]
    assert len([event for event in events if isinstance(event, SamplesWritten)]) == 2
    assert set(_last(events, HeldOut).losses) == {"start", "trained", "averaged"}


def _last(events, kind):
    return [event for event in events if isinstance(event, kind)][-1]


@pytest.mark.slow
def test_the_engine_goes_on_with_its_checkpoint_and_ends_where_it_does(here, toy, tmp_path, ray_cluster):
    """And from the first step on it equals two ranks of the engine: `tests/skyreels/training/test_fit.py`."""
    run, events = here
    first = []
    stop_at(toy, tmp_path, settings(), 2, first)
    outcome, theirs = trained(toy, tmp_path, workers=1)
    assert outcome.step == STEPS
    assert losses(first) | losses(theirs) == pytest.approx(losses(events), rel=1e-6)
    assert _last(events, HeldOut).losses == pytest.approx(_last(theirs, HeldOut).losses, rel=1e-5)
    for ema in (False, True):
        expected = weights(tmp_path, ema=ema)
        found = weights(run, ema=ema)
        assert found.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-7)


def stop_at(toy, run, config, step, events):
    """A run that is asked to stop after `step` steps."""

    def observe(event):
        events.append(event)
        if isinstance(event, StepDone) and event.step + 1 == step:
            os.kill(os.getpid(), signal.SIGTERM)

    outcome = fit(lambda: toy.Toy(nan_at=NAN), config, str(run), observe)
    assert outcome.stopped
    return outcome


def test_a_stopped_run_goes_on_bit_by_bit(here, toy, tmp_path):
    run, events = here
    first = []
    outcome = stop_at(toy, tmp_path, settings(), 5, first)
    outcome, second = trained(toy, tmp_path)
    assert outcome.step == STEPS
    assert losses(first) | losses(second) == losses(events)
    for ema in (False, True):
        expected = weights(run, ema=ema)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(tmp_path, ema=ema).items())
    assert _last(second, HeldOut).losses == _last(events, HeldOut).losses, "the start's is remembered"


def test_bf16_is_autocast_over_fp32_weights(here, toy, tmp_path):
    _, events = here
    _, lowered = trained(toy, tmp_path, precision="bf16")
    assert losses(lowered) == pytest.approx(losses(events), rel=0.05)
    assert losses(lowered) != pytest.approx(losses(events), rel=1e-6)
    assert all(tensor.dtype == torch.float32 for tensor in weights(tmp_path).values())


def test_a_setting_of_deepspeed_is_refused(toy, tmp_path):
    with pytest.raises(TrainingError, match="runs without DeepSpeed"):
        trained(toy, tmp_path, deepspeed="zero3-cpu")


def test_neither_ray_nor_deepspeed_nor_mlflow_is_needed(tmp_path):
    """In a process that cannot import them."""
    program = f"""
        import importlib.abc, importlib.util, sys

        class Refused(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in ("ray", "deepspeed", "mlflow", "transformers", "peft"):
                    raise ModuleNotFoundError(name)

        sys.meta_path.insert(0, Refused())
        spec = importlib.util.spec_from_file_location("toy", {str(Path(__file__).parents[1] / "toy.py")!r})
        toy = sys.modules["toy"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(toy)
        from skyreels.training.config import EngineConfig
        from skyreels.training.fit import fit

        print(fit(toy.Toy, EngineConfig(steps=2, workers=0), {str(tmp_path / "run")!r}).step)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout.split() == ["2"], done.stderr
