"""The plan of one stage on one cluster: does it fit, how long is a step, what does the whole take."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from model.costs.flops import forward_flops
from model.costs.memory import Memory, parameter_counts
from model.inspect import TEXT_TOKENS
from pipelines.training.cost.cluster import ClusterSpec
from pipelines.training.cost.fit import holds, needed_bytes, peak_memory, remedies, training_setup
from pipelines.training.cost.step import StepTime, step_time
from pipelines.training.cost.workloads import Item, Samples, stage_items, stage_network
from pipelines.training.curriculum.resolve import Stage

GIBI = 2**30


class CannotFit(ValueError):
    """What a stage needs on each device, what there is, and settings that would make it fit."""


@dataclass(frozen=True)
class StagePlan:
    """One stage on one cluster. Bytes are of one device; `heaviest` is the item that needs most."""

    stage: Stage
    cluster: ClusterSpec
    items: tuple[Item, ...]
    times: tuple[StepTime, ...]
    """Of one global batch of each item."""
    slots: int
    parameters: int
    trainable: int
    memory: Memory
    heaviest: Item
    remedies: tuple[str, ...]
    """Overrides of the recipe that would make it fit; empty where it fits."""

    @property
    def needed(self) -> float:
        """Bytes that must fit; with the host's where devices and host share their memory."""
        return needed_bytes(self.memory, self.cluster)

    @property
    def fits(self) -> bool:
        return holds(self.memory, self.cluster)

    @property
    def steps(self) -> int:
        return math.ceil(round(sum(item.steps for item in self.items), 6))  # shares may sum to 1 and a little

    @property
    def step(self) -> StepTime:
        """The average global batch."""
        total = sum(item.steps for item in self.items)
        first, *rest = (time.times(item.steps / total) for item, time in zip(self.items, self.times, strict=True))
        return sum(rest, start=first)

    @property
    def tokens_per_step(self) -> float:
        """Media tokens of the average global batch."""
        return self._average([item.batch * _tokens(item) for item in self.items]) * self.slots

    @property
    def samples_per_step(self) -> float:
        """Samples of the average global batch."""
        return self._average([item.batch for item in self.items]) * self.slots

    @property
    def mfu(self) -> float:
        """Share of the peak that goes into forward and backward passes, recomputed layers left out."""
        network = stage_network(self.stage)
        flops = self._average([forward_flops(network, item.work) * item.batch for item in self.items])
        peak = self.cluster.devices * self.cluster.peak(self.stage.recipe.precision)
        return 3 * flops * self.slots / (self.step.total * peak)

    @property
    def read_rate(self) -> float:
        """Bytes/s that all devices together read."""
        read = self._average([item.batch * item.sample_bytes for item in self.items])
        return read * self.slots * self.stage.recipe.sequence_parallel / self.step.total

    @property
    def cache_bytes(self) -> float | None:
        """Of the stage's samples as latents; None where steps are set, since how many there are is not known."""
        if self.stage.steps:
            return None
        read = sum(item.steps * item.batch * item.sample_bytes for item in self.items) * self.slots
        return read / self.stage.recipe.epochs

    @property
    def seconds(self) -> float:
        """Of the whole stage, interruptions included."""
        return self.steps * self.step.total / self.cluster.calibration.availability.value

    @property
    def device_hours(self) -> float:
        return self.seconds / 3600 * self.cluster.devices

    @property
    def cost(self) -> float | None:
        """In the price's currency; None where no price is known."""
        price = self.cluster.price_per_hour
        return None if price is None else self.device_hours * price

    def check(self) -> None:
        """Raises CannotFit."""
        if self.fits:
            return
        need, limit, item = self.needed / GIBI, self.cluster.memory_limit / GIBI, self.heaviest
        ways = "".join(f"\n  {remedy}" for remedy in self.remedies) or "\n  a smaller preset, or shorter clips"
        raise CannotFit(
            f"{self.stage.name} needs {need:,.1f} GiB on each of {self.cluster.devices} {self.cluster.name} for "
            f"{item.task} of {item.bucket.name} ({item.batch} x {_tokens(item):,} tokens), and {limit:,.1f} GiB can be "
            f"filled. What would make it fit:{ways}"
        )

    def _average(self, values: Sequence[float]) -> float:
        total = sum(item.steps for item in self.items)
        return sum(value * item.steps for value, item in zip(values, self.items, strict=True)) / total


def plan_stage(
    stage: Stage, cluster: ClusterSpec, samples: Samples | None = None, *, text_tokens: int = TEXT_TOKENS
) -> StagePlan:
    """Plan a resolved stage with its recipe's settings. `samples` are the data there are; None: the recipe's `data`.

    Settings that matter (`sequence_parallel`, `activation_checkpointing`, `tokens_per_slot`, `precision`,
    `deepspeed=zero3-offload`) are read from `stage.recipe`. Raises ValueError where devices do not divide into groups.
    """
    recipe = stage.recipe
    if cluster.devices % recipe.sequence_parallel or stage.preset.transformer.heads % recipe.sequence_parallel:
        raise ValueError(
            f"sequence_parallel={recipe.sequence_parallel} must divide {cluster.devices} devices and "
            f"{stage.preset.transformer.heads} heads"
        )
    ranks = cluster.devices // recipe.sequence_parallel
    slots = math.ceil(recipe.slots / ranks) * ranks
    data = samples or Samples(recipe.data.images, recipe.data.clips, recipe.data.hours)
    items = stage_items(stage, slots, data, text_tokens)
    if not sum(item.steps for item in items):
        raise ValueError(f"{stage.name} has no steps: give steps, or data for its tasks {sorted(stage.mix)}")
    network = stage_network(stage)
    times = [
        step_time(
            network,
            item.work,
            cluster,
            training_setup(stage, cluster, item),
            accumulation=slots // ranks,
            sample_bytes=item.sample_bytes,
        )
        for item in items
    ]
    memory, heaviest = peak_memory(stage, cluster, items)
    own, setup = parameter_counts(network)[0], training_setup(stage, cluster, heaviest)
    return StagePlan(
        stage=stage,
        cluster=cluster,
        items=tuple(items),
        times=tuple(times),
        slots=slots,
        parameters=own + setup.added,
        trainable=round(setup.learning(own)),
        memory=memory,
        heaviest=heaviest,
        remedies=() if holds(memory, cluster) else remedies(stage, cluster, text_tokens=text_tokens),
    )


def _tokens(item: Item) -> int:
    return item.work.video_tokens + item.work.audio_tokens
