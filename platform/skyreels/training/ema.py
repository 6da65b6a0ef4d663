"""Exponential moving average of the weights, kept by each rank of the elements that it owns."""

from collections.abc import Sequence

import torch
from torch import Tensor


class ShardedEma:
    """average <- decay * average + (1 - decay) * weight after every applied step.

    `weights` are the flat fp32 partitions that the optimizer updates in place; the average is elementwise, so the
    averages of the shards are the shards of the average, at any number of ranks.
    """

    def __init__(self, weights: Sequence[Tensor], decay: float) -> None:
        self._weights = list(weights)
        self._decay = decay
        self.averages = [weight.detach().clone() for weight in weights]

    @torch.no_grad()
    def update(self) -> None:
        torch._foreach_lerp_(self.averages, [weight.detach() for weight in self._weights], 1 - self._decay)
