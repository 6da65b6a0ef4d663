"""Averages of shards."""

import torch

from skyreels.training.ema import ShardedEma


def test_it_is_the_average_of_the_whole():
    whole = torch.randn(10)
    expected = whole.clone()
    shards = [whole[:6].clone(), whole[6:].clone()]
    ema = ShardedEma(shards, 0.75)
    for _ in range(5):
        change = torch.randn(10)
        whole += change
        shards[0] += change[:6]
        shards[1] += change[6:]
        ema.update()
        expected = 0.75 * expected + 0.25 * whole
    torch.testing.assert_close(torch.cat(ema.averages), expected)
