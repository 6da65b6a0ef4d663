"""Losses on samples that no step learns from: of the weights a run starts from, ends with, and of their average."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from skyreels.training.ema import ShardedEma
from skyreels.training.one_device.whole import Held
from skyreels.training.trainable import Trainable

START: Final = "start"
TRAINED: Final = "trained"
AVERAGED: Final = "averaged"


class HeldOutLosses:
    """By name, on the same batches with the same noise. All ranks make the same calls."""

    def __init__(self, trainable: Trainable, sharded: Held, device: torch.device) -> None:
        self._trainable, self._sharded, self._device = trainable, sharded, device

    def of_start(self) -> dict[str, float]:
        """Of the weights as they are before the first step."""
        return self._of(START, self._trainable.held_out())

    def of_end(self, ema: ShardedEma | None) -> dict[str, float]:
        """Of the weights after the last step and, where there is one, of their average."""
        batches = self._trainable.held_out()
        losses = self._of(TRAINED, batches)
        if ema is not None:
            self._sharded.exchange(ema.averages)
            try:
                losses |= self._of(AVERAGED, batches)
            finally:
                self._sharded.exchange(ema.averages)
        return losses

    @torch.no_grad()
    def _of(self, name: str, batches: Sequence[Any]) -> dict[str, float]:
        """The mean over samples; nothing where there are no batches, or it is not finite."""
        self._sharded.module.eval()
        total = 0.0
        for batch in batches:
            loss = self._sharded.run(partial(self._loss, batch.to(self._device)))
            total += float(loss) * len(batch.keys)
        self._sharded.module.train()
        return {name: total / sum(len(batch.keys) for batch in batches)} if batches and math.isfinite(total) else {}

    def _loss(self, batch: Any, module: nn.Module) -> Tensor:
        return self._trainable.loss(module, batch).loss


def better(losses: Mapping[str, float]) -> Literal["trained", "averaged"]:
    """`averaged` or `trained`, whichever has the lower loss; `averaged` where nothing was measured."""
    if TRAINED in losses and losses[TRAINED] < losses.get(AVERAGED, math.inf):
        return TRAINED
    return AVERAGED
