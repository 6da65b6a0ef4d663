"""The plan of one stage on one cluster: does it fit, how long is a step, what does the whole take."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from model.config import TransformerConfig
from model.flops import forward_flops
from model.inspect import TEXT_TOKENS
from model.memory import Memory, TrainingSetup, meta_model, parameter_counts, training_memory
from pipelines.training.cost.cluster import ClusterSpec
from pipelines.training.cost.step import StepTime, step_time
from pipelines.training.cost.workloads import Item, Samples, stage_items, stage_network
from pipelines.training.resolve import Stage
from skyreels.training.zero import load_settings

GIBI = 2**30
MOST_SEQUENCE_PARALLEL = 64
MOST_DEVICES = 65536


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
    """Overrides of the recipe, each of which alone makes it fit; empty where it fits."""

    @property
    def needed(self) -> float:
        """Bytes that must fit; with the host's where devices and host share their memory."""
        return _needed(self.memory, self.cluster)

    @property
    def fits(self) -> bool:
        return _holds(self.memory, self.cluster)

    @property
    def steps(self) -> int:
        return math.ceil(sum(item.steps for item in self.items))

    @property
    def step(self) -> StepTime:
        """The average global batch."""
        total = sum(item.steps for item in self.items)
        first, *rest = (time.times(item.steps / total) for item, time in zip(self.items, self.times, strict=True))
        return sum(rest, start=first)

    @property
    def tokens_per_step(self) -> float:
        """Media tokens of the average global batch."""
        return self._average([float(item.batch * _tokens(item)) for item in self.items]) * self.slots

    @property
    def samples_per_step(self) -> float:
        """Samples of the average global batch."""
        return self._average([float(item.batch) for item in self.items]) * self.slots

    @property
    def mfu(self) -> float:
        """Share of the peak that goes into forward and backward passes, recomputed layers left out."""
        network = stage_network(self.stage)
        flops = (
            self._average([3.0 * forward_flops(network, item.work) * item.batch for item in self.items]) * self.slots
        )
        return flops / (self.step.total * self.cluster.devices * self.cluster.peak(self.stage.recipe.precision))

    @property
    def read_rate(self) -> float:
        """Bytes/s that all devices together read."""
        read = self._average([item.batch * item.sample_bytes for item in self.items])
        return read * self.slots * self.stage.recipe.sequence_parallel / self.step.total

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

    def _average(self, values: list[float]) -> float:
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
            _setup(stage, cluster, item),
            accumulation=slots // ranks,
            sample_bytes=item.sample_bytes,
        )
        for item in items
    ]
    memory, heaviest = _peak(stage, cluster, items)
    parameters = parameter_counts(network)[0]
    return StagePlan(
        stage=stage,
        cluster=cluster,
        items=tuple(items),
        times=tuple(times),
        slots=slots,
        parameters=parameters,
        trainable=round(parameters * _trainable(network, recipe.freeze)),
        memory=memory,
        heaviest=heaviest,
        remedies=() if _holds(memory, cluster) else tuple(_remedies(stage, cluster, data, text_tokens)),
    )


def with_fitting_groups(stage: Stage, cluster: ClusterSpec, *, text_tokens: int = TEXT_TOKENS) -> Stage:
    """The stage with the smallest `sequence_parallel` that fits; as it is where none does, or it fits already."""
    for size in _group_sizes(stage, cluster):
        changed = _changed(stage, sequence_parallel=size)
        if _fits(changed, cluster, text_tokens):
            return changed
    return stage


def _fits(stage: Stage, cluster: ClusterSpec, text_tokens: int) -> bool:
    items = stage_items(_changed(stage, steps=1), 1, Samples(), text_tokens)
    return _holds(_peak(stage, cluster, items)[0], cluster)


def _holds(memory: Memory, cluster: ClusterSpec) -> bool:
    return _needed(memory, cluster) <= cluster.memory_limit and memory.host <= cluster.host_limit


def _peak(stage: Stage, cluster: ClusterSpec, items: list[Item]) -> tuple[Memory, Item]:
    """The most that any item needs."""
    network = stage_network(stage)
    found = [(training_memory(network, item.work, _setup(stage, cluster, item)), item) for item in items]
    return max(found, key=lambda pair: pair[0].total)


def _needed(memory: Memory, cluster: ClusterSpec) -> float:
    process = cluster.calibration.process_bytes.value
    return process + memory.total + (memory.host if cluster.shares_host else 0.0)


def _setup(stage: Stage, cluster: ClusterSpec, item: Item) -> TrainingSetup:
    recipe, zero = stage.recipe, _zero(stage, cluster)
    buffers = zero["reduce_bucket_size"] * (2 if zero.get("overlap_comm") else 1) + zero["stage3_prefetch_bucket_size"]
    return TrainingSetup(
        gpus=cluster.devices,
        batch=item.batch,
        precision=recipe.precision,
        checkpointing=recipe.activation_checkpointing,
        sequence_parallel=recipe.sequence_parallel,
        average=recipe.ema is not None,
        trainable=_trainable(stage_network(stage), recipe.freeze),
        offload="offload_optimizer" in zero,
        snapshot=recipe.checkpoint.background,
        live=zero["stage3_max_live_parameters"],
        buffers=buffers,
    )


def _zero(stage: Stage, cluster: ClusterSpec) -> dict[str, Any]:
    """DeepSpeed's settings of ZeRO as the engine will read them."""
    device = {"gpus_per_worker": 0.0 if cluster.shares_host else 1.0}
    settings: dict[str, Any] = load_settings(stage.recipe.model_copy(update=device))["zero_optimization"]
    return settings


@lru_cache(maxsize=64)
def _trainable(network: TransformerConfig, freeze: tuple[str, ...]) -> float:
    """The share of the parameters that learn."""
    if not freeze:
        return 1.0
    counts = {name: parameter.numel() for name, parameter in meta_model(network).named_parameters()}
    frozen = sum(count for name, count in counts.items() if any(fnmatchcase(name, pattern) for pattern in freeze))
    return 1 - frozen / sum(counts.values())


def _remedies(stage: Stage, cluster: ClusterSpec, data: Samples, text_tokens: int) -> Iterator[str]:
    """Overrides that make it fit, the cheapest first; two at a time where no single one does."""
    single = list(_single_remedies(stage, cluster, text_tokens))
    yield from single
    if single:
        return
    changed = _changed(stage, activation_checkpointing=True)
    known = "activation_checkpointing=true " if not stage.recipe.activation_checkpointing else ""
    for remedy in _single_remedies(changed, cluster, text_tokens):
        yield known + remedy
    if not known:
        offloaded = _changed(changed, deepspeed="zero3-offload")
        for remedy in _single_remedies(offloaded, cluster, text_tokens):
            yield f"deepspeed=zero3-offload {remedy}"


def _single_remedies(stage: Stage, cluster: ClusterSpec, text_tokens: int) -> Iterator[str]:
    recipe = stage.recipe
    if not recipe.activation_checkpointing and _fits(
        _changed(stage, activation_checkpointing=True), cluster, text_tokens
    ):
        yield "activation_checkpointing=true  # recomputes layers: a third more arithmetic"
    for share in (2, 4, 8, 16):
        fewer = _changed(stage, tokens_per_slot=recipe.tokens_per_slot // share)
        if _fits(fewer, cluster, text_tokens):
            yield f"tokens_per_slot={recipe.tokens_per_slot // share}  # smaller batches"
            break
    for size in _group_sizes(stage, cluster):
        if size > recipe.sequence_parallel and _fits(_changed(stage, sequence_parallel=size), cluster, text_tokens):
            yield f"sequence_parallel={size}  # that many devices share a sequence"
            break
    if not cluster.shares_host and _fits(_changed(stage, deepspeed="zero3-offload"), cluster, text_tokens):
        yield "deepspeed=zero3-offload  # the optimizer in the host's memory"
    more = cluster.devices
    while (more := more * 2) <= MOST_DEVICES and not cluster.shares_host:
        if _fits(stage, cluster.resized(more), text_tokens):
            yield f"workers={more}  # smaller shards"
            break


def _group_sizes(stage: Stage, cluster: ClusterSpec) -> list[int]:
    """Sizes that divide heads and devices, from the recipe's on."""
    heads, least = stage.preset.transformer.heads, stage.recipe.sequence_parallel
    sizes = range(least, min(MOST_SEQUENCE_PARALLEL, heads, cluster.devices) + 1)
    return [size for size in sizes if heads % size == cluster.devices % size == 0]


def _changed(stage: Stage, **values: Any) -> Stage:
    return replace(stage, recipe=stage.recipe.model_copy(update=values))


def _tokens(item: Item) -> int:
    return item.work.video_tokens + item.work.audio_tokens
