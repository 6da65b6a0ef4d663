"""Exponential moving average of the weights, kept by each rank of the elements that it owns."""

from collections.abc import Sequence

import torch
from torch import Tensor


def decay_after(updates: int, most: float) -> float:
    """The decay of update number `updates`, counted from 1: rises to `most`, so that a short run's average does not
    hold on to what the run started from (the ramp of TensorFlow's ExponentialMovingAverage)."""
    return min(most, (1 + updates) / (10 + updates))


class ShardedEma:
    """average <- decay * average + (1 - decay) * weight after every applied step; `decay` is what it rises to.

    `weights` are the flat fp32 partitions that the optimizer updates in place; the average is elementwise, so the
    averages of the shards are the shards of the average, at any number of ranks.
    """

    def __init__(self, weights: Sequence[Tensor], decay: float) -> None:
        self._weights = list(weights)
        self._decay = decay
        self.averages = [weight.detach().clone() for weight in weights]

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Take in the weights after their update number `updates`, counted from 1 over all attempts of the run."""
        share = 1 - decay_after(updates, self._decay)
        torch._foreach_lerp_(self.averages, [weight.detach() for weight in self._weights], share)
