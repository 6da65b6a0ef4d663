"""Averages of shards."""

import pytest
import torch

from skyreels.training.ema import ShardedEma, decay_after


def test_it_is_the_average_of_the_whole():
    whole = torch.randn(10)
    expected = whole.clone()
    shards = [whole[:6].clone(), whole[6:].clone()]
    ema = ShardedEma(shards, 0.4)
    for update, decay in enumerate((2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 0.4, 0.4), 1):
        change = torch.randn(10)
        whole += change
        shards[0] += change[:6]
        shards[1] += change[6:]
        ema.update(update)
        expected = decay * expected + (1 - decay) * whole
    torch.testing.assert_close(torch.cat(ema.averages), expected)


def test_it_reaches_the_decay_that_was_asked_for_and_never_more():
    assert decay_after(1, 0.9999) == pytest.approx(2 / 11)
    assert decay_after(90_000, 0.9999) == pytest.approx(1 - 9 / 90_010)
    assert decay_after(10**6, 0.9999) == 0.9999


@pytest.mark.parametrize(("updates", "decay"), [(12, 0.97), (70, 0.97), (2_000, 0.9999), (20_000, 0.9999)])
def test_a_short_run_s_average_forgets_where_it_started(updates, decay):
    """At a constant decay these kept 69, 12, 82 and 14 hundredths of the start."""
    weight = torch.zeros(1)
    ema = ShardedEma([weight], decay)
    ema.averages[0].fill_(1.0)
    for update in range(1, updates + 1):
        ema.update(update)
    assert ema.averages[0].item() < 1e-3
