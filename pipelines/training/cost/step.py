"""Time of one micro-batch and one global batch: what must be computed, moved, gathered and read, and what hides what.

A forward pass costs `forward_flops`; the backward pass twice that, less the gradients of frozen weights; layers that
are recomputed, once more. ZeRO-3 gathers all weights in the forward and again in the backward pass, and scatters the
gradients once, in every micro-batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache

from model.config import TransformerConfig
from model.costs.flops import Workload, attention_flops, forward_flops
from model.costs.memory import (
    EXCHANGES,
    TOUCHES,
    VALUE_BYTES,
    TrainingSetup,
    layer_tokens,
    layer_traffic,
    parameter_counts,
)
from pipelines.training.cost.cluster import ClusterSpec

OPTIMIZER_TRAFFIC, AVERAGE_TRAFFIC = 34, 12
"""Moved per parameter of a shard by one step of AdamW (gradient, master weight and two moments read, all but the
gradient written, the weight written once more in low precision) and by the average."""

PARTS = {
    "products": "matrix products of the layers",
    "attention": "attention",
    "memory": "elementwise work, bound by memory bandwidth",
    "launches": "launching layers",
    "exchange": "sequence-parallel exchange",
    "gathering": "ZeRO-3 gathering and scattering",
    "reading": "reading samples",
    "update": "optimizer",
}


@dataclass(frozen=True)
class StepTime:
    """Seconds of one global batch. `hidden` is what of gathering and reading runs behind the rest."""

    products: float
    attention: float
    memory: float
    launches: float
    exchange: float
    gathering: float
    reading: float
    update: float
    hidden: float

    @property
    def parts(self) -> Mapping[str, float]:
        """Seconds by part, whether hidden or not."""
        return {name: getattr(self, name) for name in PARTS}

    @property
    def total(self) -> float:
        """Seconds that pass."""
        return sum(self.parts.values()) - self.hidden

    @property
    def limit(self) -> str:
        """The part that takes longest."""
        return max(self.parts, key=lambda name: self.parts[name])

    def times(self, factor: float) -> "StepTime":
        """Of `factor` such steps."""
        return StepTime(**{field.name: getattr(self, field.name) * factor for field in fields(self)})

    def __add__(self, other: "StepTime") -> "StepTime":
        names = (field.name for field in fields(self))
        return StepTime(**{name: getattr(self, name) + getattr(other, name) for name in names})


def step_time(
    config: TransformerConfig,
    work: Workload,
    cluster: ClusterSpec,
    setup: TrainingSetup,
    *,
    accumulation: int = 1,
    sample_bytes: float = 0.0,
) -> StepTime:
    """Time of a global batch of `accumulation` micro-batches per group of `setup.sequence_parallel` devices."""
    share = setup.batch / setup.sequence_parallel
    used, width = touched(config, work), config.width
    passes = {"forward": 2 if setup.checkpointing else 1, "backward": 1}
    tokens, kind = layer_tokens(work)
    quadratic = attention_flops(config, work)
    linear = forward_flops(config, work) - quadratic
    values = tokens * width * config.layers * share
    touches = sum(TOUCHES[name] * count for name, count in passes.items())
    exchanged = values * VALUE_BYTES[setup.precision] * EXCHANGES[kind] * sum(passes.values())
    group = setup.sequence_parallel
    products = linear * (passes["forward"] + 1 + setup.trainable) * share / cluster.compute_rate(setup.precision)
    again = setup.checkpointing and not setup.keep_attention
    attention = quadratic * (3 + again) * share / cluster.compute_rate(setup.precision)
    traffic = layer_traffic(config, work, setup.precision) * config.layers * share
    memory = traffic * touches / cluster.memory_rate
    launches = config.layers * cluster.calibration.layer_overhead.value
    exchange = exchanged * (group - 1) / group / cluster.link_rate(group)
    gathering = _gathering(used, cluster, setup)
    reading = sample_bytes * setup.batch / cluster.calibration.storage_bandwidth.value
    busy = products + attention + memory + launches + exchange
    hidden = cluster.calibration.overlap.value * (busy + gathering + reading - max(busy, gathering, reading))
    micro = StepTime(products, attention, memory, launches, exchange, gathering, reading, update=0.0, hidden=hidden)
    return replace(micro.times(accumulation), update=_update(config, cluster, setup))


def touched(config: TransformerConfig, work: Workload) -> TransformerConfig:
    """The branches that a workload runs through: ZeRO-3 gathers no others."""
    return replace(
        config,
        video_channels=config.video_channels if work.video_tokens else 0,
        audio_channels=config.audio_channels if work.audio_tokens else 0,
    )


@lru_cache(maxsize=64)
def _parameters(config: TransformerConfig) -> int:
    return parameter_counts(config)[0]


def _gathering(used: TransformerConfig, cluster: ClusterSpec, setup: TrainingSetup) -> float:
    """Two gathers of all weights and one scatter of the gradients of those that learn, over all devices."""
    own = _parameters(used)
    moved = (2 * (own + setup.added) + setup.learning(own)) * VALUE_BYTES[setup.precision]
    return moved * (setup.gpus - 1) / setup.gpus / cluster.link_rate(setup.gpus)


def _update(config: TransformerConfig, cluster: ClusterSpec, setup: TrainingSetup) -> float:
    """AdamW on this device's shard; offloaded, gradients go to the host and weights come back."""
    shard = setup.learning(_parameters(config)) / setup.gpus
    moved = shard * (OPTIMIZER_TRAFFIC + (AVERAGE_TRAFFIC if setup.average else 0))
    link, rate = cluster.calibration.host_link, cluster.calibration.host_rate
    if not setup.offload or link is None or rate is None:
        return moved / cluster.memory_rate
    return shard * 2 * VALUE_BYTES[setup.precision] / link.value + moved / rate.value
