"""What a step saw, summed over micro-batches and ranks with one all-reduce."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from skyreels.training.trainable import Batch, StepLoss


@dataclass(frozen=True)
class Totals:
    """Over all ranks. With sequence parallelism a slot counts once for each rank that shares it."""

    slots: float
    loss: float
    finite: bool
    samples: int
    unreadable: int
    tokens: float
    flops: float
    waited_s: float
    stop: bool
    failed: bool
    sums: Mapping[str, float]


@dataclass
class Tally:
    """One step on one rank."""

    device: torch.device
    waited_s: float = 0.0
    tokens: float = 0.0
    flops: float = 0.0
    samples: int = 0
    keys: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    _losses: list[Tensor] = field(default_factory=list)
    _sums: dict[str, list[tuple[Tensor | float, Tensor | float]]] = field(default_factory=dict)

    def add(self, batch: Batch, step_loss: StepLoss, counts: bool = True) -> None:
        """Add a micro-batch; one that does not count leaves its sums' names, at weight 0."""
        if not counts:
            for name in step_loss.sums:
                self._sums.setdefault(name, []).append((0.0, 0.0))
            return
        self.samples += len(batch.keys)
        self.tokens += batch.tokens
        self.flops += batch.flops
        self.keys += batch.keys
        self.unreadable += batch.skipped
        self._losses.append(step_loss.loss.detach())
        for name, pair in step_loss.sums.items():
            self._sums.setdefault(name, []).append(pair)

    def reduce(self, *, stop: bool, failed: bool) -> Totals:
        """Add up over all ranks, which must have the same names of sums."""
        names = sorted(self._sums)
        loss = torch.stack([torch.zeros((), device=self.device), *self._losses]).double().sum()
        counts = [len(self._losses), self.samples, len(self.unreadable), self.tokens, self.flops, self.waited_s]
        flags = [float(stop), float(failed)]
        pairs = [self._pair(name, side) for name in names for side in (0, 1)]
        scalars = torch.tensor([*counts, *flags], dtype=torch.float64, device=self.device)
        bad = (~torch.isfinite(loss)).double()
        vector = torch.cat([scalars, torch.stack([loss, bad, *pairs])])
        if dist.get_world_size() > 1:
            dist.all_reduce(vector)
        slots, samples, unreadable, tokens, flops, waited, stops, fails, loss_sum, bads, *rest = vector.tolist()
        sums = {
            name: total / weight for name, total, weight in zip(names, rest[::2], rest[1::2], strict=True) if weight
        }
        return Totals(
            slots=slots,
            loss=loss_sum / slots,
            finite=bads == 0,
            samples=int(samples),
            unreadable=int(unreadable),
            tokens=tokens,
            flops=flops,
            waited_s=waited,
            stop=stops > 0,
            failed=fails > 0,
            sums=sums,
        )

    def _pair(self, name: str, side: int) -> Tensor:
        values = [torch.as_tensor(pair[side], dtype=torch.float64, device=self.device) for pair in self._sums[name]]
        return torch.stack(values).sum().detach()
