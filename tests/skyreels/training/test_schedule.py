"""Learning rates as functions of the step."""

import pytest

from skyreels.training.config import EngineConfig, OptimizerConfig, ScheduleConfig
from skyreels.training.schedule import learning_rate


def rates(steps, **schedule):
    config = EngineConfig(
        steps=steps, optimizer=OptimizerConfig(learning_rate=2.0), schedule=ScheduleConfig(**schedule)
    )
    return [learning_rate(step, config) for step in range(steps)]


def test_constant():
    assert rates(4) == [2.0] * 4
    assert rates(4, warmup_steps=3) == pytest.approx([2 / 3, 4 / 3, 2.0, 2.0])


def test_linear_reaches_its_end_in_the_last_step():
    assert rates(6, kind="linear", warmup_steps=1, final=0.2) == pytest.approx([2.0, 2.0, 1.6, 1.2, 0.8, 0.4])


def test_cosine_is_torchs():
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=2.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=9, eta_min=0.2)
    expected = []
    for _ in range(10):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates(10, kind="cosine", final=0.1) == pytest.approx(expected)


def test_a_run_shorter_than_its_warm_up():
    assert rates(2, kind="cosine", warmup_steps=4) == pytest.approx([0.5, 1.0])
