"""Whether a stage fits into the memory of its devices, and which settings would make it fit."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import combinations, product
from typing import Any

from model.config import TransformerConfig
from model.costs.memory import Memory, TrainingSetup, meta_model, training_memory
from model.inspect import TEXT_TOKENS
from pipelines.training.cost.cluster import ClusterSpec
from pipelines.training.cost.workloads import Item, Samples, stage_items, stage_network
from pipelines.training.curriculum.resolve import Stage
from pipelines.training.learners.network import frozen
from skyreels.training.zero import load_settings

MOST_SEQUENCE_PARALLEL = 64
MOST_DEVICES = 2**16
REMEDIES_SHOWN = 4

Change = Mapping[str, Any]
"""Settings of a recipe; `workers` are the devices."""


def with_fitting_groups(stage: Stage, cluster: ClusterSpec, *, text_tokens: int = TEXT_TOKENS) -> Stage:
    """The stage with the smallest `sequence_parallel` that fits, or that there can be where none does.

    The recipe's is the least, unless the devices do not divide by it.
    """
    sizes = [size for size in _group_sizes(stage) if cluster.devices % size == 0]
    least = stage.recipe.sequence_parallel
    sizes = [size for size in sizes if size >= least] if least in sizes else sizes
    grouped = [_changed(stage, {"sequence_parallel": size}) for size in sizes]
    return next((changed for changed in grouped if _fits(changed, cluster, text_tokens)), grouped[0])


def remedies(stage: Stage, cluster: ClusterSpec, *, text_tokens: int = TEXT_TOKENS) -> tuple[str, ...]:
    """Overrides of the recipe that make it fit: single ones, or pairs where none is enough alone."""
    kinds = list(_changes(stage, cluster))
    for together in (1, 2):
        found = [_first_that_fits(stage, cluster, text_tokens, chosen) for chosen in combinations(kinds, together)]
        if any(found):
            return tuple(remedy for remedy in found if remedy)[:REMEDIES_SHOWN]
    return ()


def peak_memory(stage: Stage, cluster: ClusterSpec, items: Sequence[Item]) -> tuple[Memory, Item]:
    """The most that any item needs."""
    network = stage_network(stage)
    found = [(training_memory(network, item.work, training_setup(stage, cluster, item)), item) for item in items]
    return max(found, key=lambda pair: pair[0].total)


def training_setup(stage: Stage, cluster: ClusterSpec, item: Item) -> TrainingSetup:
    """How the engine runs a stage with its recipe's settings."""
    recipe, zero = stage.recipe, _zero(stage, cluster)
    buffers = zero["reduce_bucket_size"] * (2 if zero.get("overlap_comm") else 1) + zero["stage3_prefetch_bucket_size"]
    return TrainingSetup(
        gpus=cluster.devices,
        batch=item.batch,
        precision=recipe.precision,
        checkpointing=recipe.activation_checkpointing,
        keep_attention=recipe.keep_attention,
        sequence_parallel=recipe.sequence_parallel,
        average=recipe.ema is not None,
        trainable=0.0 if stage.adapter else trainable_share(stage_network(stage), recipe.freeze),
        added=stage.adapter,
        offload="offload_optimizer" in zero,
        snapshot=recipe.checkpoint.background,
        live=zero["stage3_max_live_parameters"],
        buffers=buffers,
    )


def needed_bytes(memory: Memory, cluster: ClusterSpec) -> float:
    """Bytes that one device must hold, with the host's where both are the same memory."""
    process = cluster.calibration.process_bytes.value
    return process + memory.total + (memory.host if cluster.shares_host else 0.0)


def holds(memory: Memory, cluster: ClusterSpec) -> bool:
    """Whether devices and hosts can hold that."""
    return needed_bytes(memory, cluster) <= cluster.memory_limit and memory.host <= cluster.host_limit


@lru_cache(maxsize=64)
def trainable_share(network: TransformerConfig, freeze: tuple[str, ...]) -> float:
    """The share of the parameters that learn where those of `freeze` do not. Raises ConfigError as `frozen` does."""
    if not freeze:
        return 1.0
    counts = {name: parameter.numel() for name, parameter in meta_model(network).named_parameters()}
    return 1 - sum(counts[name] for name in frozen(counts, freeze)) / sum(counts.values())


def _changes(stage: Stage, cluster: ClusterSpec) -> Iterator[list[Change]]:
    """Kinds of remedy, the cheapest first; of each kind the mildest first."""
    recipe = stage.recipe
    if not recipe.activation_checkpointing:
        yield [{"activation_checkpointing": True}]
    yield [{"tokens_per_slot": recipe.tokens_per_slot // share} for share in (2, 4, 8, 16)]
    yield [{"sequence_parallel": size} for size in _group_sizes(stage) if size > recipe.sequence_parallel]
    if not cluster.shares_host:
        yield [{"deepspeed": "zero3-offload"}]
        yield [{"workers": devices} for devices in cluster.larger(MOST_DEVICES)]


def _first_that_fits(
    stage: Stage, cluster: ClusterSpec, text_tokens: int, kinds: Sequence[Sequence[Change]]
) -> str | None:
    """The mildest change of these kinds together that fits, as overrides."""
    for changes in product(*kinds):
        together = {key: value for change in changes for key, value in change.items()}
        changed, resized = _changed(stage, together), replace(cluster, devices=together.get("workers", cluster.devices))
        if resized.devices % changed.recipe.sequence_parallel == 0 and _fits(changed, resized, text_tokens):
            return " ".join(f"{key}={str(value).lower()}" for key, value in together.items())
    return None


def _fits(stage: Stage, cluster: ClusterSpec, text_tokens: int) -> bool:
    items = stage_items(_changed(stage, {"steps": 1}), 1, Samples(), text_tokens)
    return holds(peak_memory(stage, cluster, items)[0], cluster)


def _zero(stage: Stage, cluster: ClusterSpec) -> dict[str, Any]:
    """DeepSpeed's settings of ZeRO as the engine will read them."""
    device = {"gpus_per_worker": 0.0 if cluster.shares_host else 1.0}
    settings: dict[str, Any] = load_settings(stage.recipe.model_copy(update=device))["zero_optimization"]
    return settings


def _group_sizes(stage: Stage) -> list[int]:
    """How many devices can share a sequence: what divides the heads."""
    heads = stage.preset.transformer.heads
    return [size for size in range(1, min(MOST_SEQUENCE_PARALLEL, heads) + 1) if heads % size == 0]


def _changed(stage: Stage, change: Change) -> Stage:
    return replace(stage, recipe=stage.recipe.model_copy(update=dict(change)))
