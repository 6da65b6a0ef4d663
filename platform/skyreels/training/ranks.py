"""Who runs which slots of the global batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from skyreels.training.config import EngineConfig
from skyreels.training.errors import TrainingError


@dataclass(frozen=True)
class Ranks:
    """A rank among the workers of this attempt. `sequence_parallel` neighbouring ranks share their slots."""

    rank: int
    world: int
    slots: int
    sequence_parallel: int

    @classmethod
    def of(cls, rank: int, world: int, slots: int, config: EngineConfig) -> Self:
        """Raises where slots and workers do not fit, unless workers were lost and the run may go on with fewer."""
        shared = config.sequence_parallel
        ranks = cls(rank, world, slots, shared)
        if world % shared:
            raise TrainingError(
                f"{world} workers do not form groups of sequence_parallel = {shared}: set workers to a multiple of it"
            )
        if slots % ranks.data_parallel and world == config.workers:
            divisors = [n * shared for n in range(1, slots + 1) if slots % n == 0]
            raise TrainingError(
                f"{slots} slots cannot be shared evenly by {ranks.data_parallel} data-parallel ranks ({world} workers, "
                f"sequence_parallel {shared}): set workers to one of {', '.join(map(str, divisors))}, or the slots to "
                f"a multiple of {ranks.data_parallel}"
            )
        return ranks

    @property
    def data_parallel(self) -> int:
        return self.world // self.sequence_parallel

    @property
    def accumulation(self) -> int:
        """Micro-batches that each rank runs per step."""
        return -(-self.slots // self.data_parallel)

    def step_slots(self) -> Iterator[tuple[int, float]]:
        """(slot, weight of its loss) of each micro-step.

        DeepSpeed divides the sum of gradients by ranks and micro-steps; the weight makes that the mean over slots.
        Where fewer workers than planned leave slots over, ranks without a slot of their own repeat one at weight 0:
        all ranks must run alike.
        """
        scale = self.accumulation * self.data_parallel / self.slots
        for micro in range(self.accumulation):
            slot = micro * self.data_parallel + self.rank // self.sequence_parallel
            yield (slot, scale) if slot < self.slots else (slot % self.slots, 0.0)
