"""Memory of a training step or a sampling step on one device, from the shapes: what is shared out and what is not.

States are sharded over all devices: weights in the precision of training, and in float32 summed gradients, master
weights, two Adam moments and, if kept, an average of the weights. The tests hold them against what DeepSpeed allocates
with our settings, and the activations against what autograd keeps.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import nn

from model.config import TransformerConfig
from model.costs.flops import Workload, sparse_plan
from model.network.mmdit import MMDiT

Precision = Literal["bf16", "fp32"]

VALUE_BYTES: dict[Precision, int] = {"bf16": 2, "fp32": 4}

GRADIENT_BYTES, MASTER_BYTES, MOMENT_BYTES, AVERAGE_BYTES = 4, 4, 8, 4
"""Per parameter, float32 whatever the precision: gradient, master weight, Adam's two moments, averaged weight (EMA)."""

SAVED_BYTES: dict[Precision, dict[str, int]] = {
    "bf16": {"alone": 68, "joint": 92},
    "fp32": {"alone": 110, "joint": 144},
}
"""Per token and channel, what one layer keeps for its backward pass, in one branch or in both; the tests measure it."""


WORKING_BYTES: dict[Precision, dict[str, int]] = {
    "bf16": {"alone": 22, "joint": 27},
    "fp32": {"alone": 21, "joint": 25},
}
"""Per token and channel, what the backward pass holds beside that at its height: gradients, and values in float32."""

TOUCHES = {"forward": 2, "backward": 3}
"""How often elementwise work moves what a layer keeps: written and read by the next operation; then read, and its
gradient written and read. An assumption; `benchmarks/calibrate.py` puts what it misses into `compute_efficiency`."""

EXCHANGES = {"alone": 4, "joint": 6}
"""Tensors of (tokens, width) that sequence parallelism exchanges in a layer: q, k, v and the output of self-attention;
with both branches also queries and outputs of those that read each other."""

KEPT_TENSORS = {"alone": 2, "joint": 3}
"""Outputs of attention that `keep_attention` holds of each layer, as large as its input: of itself, of the text, and of
the other branch."""

SPARSE_TRAFFIC = 190
"""Per token of the grid and channel, what a layer's sparse attention writes beside what it keeps: means of cubes,
gates, coarse output, ragged cubes. What forward passes of 22,440 and 83,640 tokens took longer on an H100."""

SAMPLING_BYTES: dict[Precision, int] = {"bf16": 37, "fp32": 57}
"""Per token and channel, what a step without gradients holds at its height: where queries and keys are rotated."""

SAMPLER_COPIES = 6
"""Copies of the latents in float32 that a solver of two orders and its guidance hold."""


@dataclass(frozen=True)
class TrainingSetup:
    """How a step is run. `trainable` is the share of the network's parameters that learn."""

    gpus: int
    batch: int = 1
    precision: Precision = "bf16"
    checkpointing: bool = True
    keep_attention: bool = False
    """With `checkpointing`: whether what attention gave is kept."""
    sequence_parallel: int = 1
    average: bool = False
    trainable: float = 1.0
    added: int = 0
    """Parameters beside the network's own, all of which learn: a low-rank adapter."""
    offload: bool = False
    snapshot: bool = False
    """Whether a checkpoint is written from a copy while training goes on."""
    live: int = 0
    """Elements that may stay gathered though no layer at work needs them."""
    buffers: int = 0
    """Elements of the buffers that gradients wait in, and weights that come in ahead."""

    def learning(self, own: int) -> float:
        """Parameters that learn, of a network's `own` and those added to it."""
        return own * self.trainable + self.added


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, and for it in its host's memory."""

    weights: float
    gradients: float
    optimizer: float
    average: float
    gathered: float
    activations: float
    host: float = 0.0

    @property
    def states(self) -> float:
        """What is sharded over all devices."""
        return self.weights + self.gradients + self.optimizer + self.average

    @property
    def total(self) -> float:
        """All of them; the allocator's own waste comes on top."""
        return self.states + self.gathered + self.activations


def meta_model(config: TransformerConfig) -> MMDiT:
    """The model without its weights."""
    with torch.device("meta"):
        return MMDiT(config)


def count_parameters(module: nn.Module) -> int:
    """All parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


@dataclass(frozen=True)
class SamplingSetup:
    """How a clip is made: `ranks` share its sequence, `batch` passes run together."""

    ranks: int = 1
    batch: int = 1
    precision: Precision = "bf16"
    streamed: bool = False
    """Whether layers lie on the host, and come to the device one by one."""


@dataclass(frozen=True)
class SamplingMemory:
    """Bytes on one device while a clip is made."""

    weights: float
    activations: float
    latents: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.weights + self.activations + self.latents


@lru_cache(maxsize=64)
def parameter_counts(config: TransformerConfig) -> tuple[int, int]:
    """Parameters of the model, and of its largest layer."""
    model = meta_model(config)
    return count_parameters(model), max(count_parameters(layer) for layer in model.layers)


@lru_cache(maxsize=64)
def outside_layers(config: TransformerConfig) -> int:
    """Parameters of embeddings, modulations and heads."""
    model = meta_model(config)
    return count_parameters(model) - count_parameters(model.layers)


def layer_tokens(work: Workload) -> tuple[int, str]:
    """Tokens of one sample that a layer holds, text once per branch, and the key in `SAVED_BYTES`."""
    branches = [count for count in (work.video_tokens, work.audio_tokens) if count]
    return sum(branches) + work.text * len(branches), "joint" if len(branches) == 2 else "alone"


def layer_traffic(config: TransformerConfig, work: Workload, precision: Precision) -> float:
    """Bytes that elementwise work of one layer writes, of one sample; they are touched as `TOUCHES` says."""
    tokens, kind = layer_tokens(work)
    plan = sparse_plan(config, work)
    beside = SPARSE_TRAFFIC * work.sequence if plan is not None and plan.sparsity else 0
    return float(config.width * (tokens * SAVED_BYTES[precision][kind] + beside))


def selection_bytes(config: TransformerConfig, work: Workload) -> int:
    """The key cubes that one layer's sparse attention keeps for its backward pass, four bytes a pair, of one sample."""
    plan = sparse_plan(config, work)
    if plan is None or plan.sparsity == 0:
        return 0
    return 4 * config.heads * math.prod(plan.cubes) * plan.kept


def training_memory(config: TransformerConfig, work: Workload, setup: TrainingSetup) -> Memory:
    """Memory of one device at the height of a step.

    At least two layers' weights are gathered at a time, the one at work and the next, and one layer's gradients wait
    to be scattered. Activations: with `checkpointing` each layer's input for all tokens (with `keep_attention` what
    attention gave as well) and what one layer keeps while it is recomputed; without, what every layer keeps; and what
    the backward pass works with. With `offload` the optimizer and the average lie on the host.
    """
    total, layer = parameter_counts(config)
    tokens, kind = layer_tokens(work)
    value = VALUE_BYTES[setup.precision]
    shard, learning = (total + setup.added) / setup.gpus, setup.learning(total) / setup.gpus
    optimizer = learning * (MASTER_BYTES + MOMENT_BYTES)
    average = learning * AVERAGE_BYTES if setup.average else 0.0
    gathered = min(total, max(2 * layer, setup.live)) + layer + setup.buffers
    saved, working = SAVED_BYTES[setup.precision][kind], WORKING_BYTES[setup.precision][kind]
    selected = selection_bytes(config, work) * (1 if setup.checkpointing else config.layers)
    kept = KEPT_TENSORS[kind] if setup.keep_attention else 0
    inputs = config.layers * value * (1 + kept) + saved - kept * value
    held = working + (inputs if setup.checkpointing else config.layers * saved)
    return Memory(
        weights=shard * value,
        gradients=learning * GRADIENT_BYTES,
        optimizer=0.0 if setup.offload else optimizer,
        average=0.0 if setup.offload else average,
        gathered=value * gathered,
        activations=setup.batch * (tokens * config.width * held + selected) / setup.sequence_parallel,
        host=(optimizer + average) * (setup.offload + setup.snapshot),
    )


def sampling_memory(config: TransformerConfig, work: Workload, setup: SamplingSetup) -> SamplingMemory:
    """Memory of one device while it makes a clip.

    Every rank has all weights, all latents, text and sound; the video's tokens and its heads are shared out.
    """
    total, layer = parameter_counts(config)
    value, (tokens, _) = VALUE_BYTES[setup.precision], layer_tokens(work)
    own = tokens - work.video_tokens * (1 - 1 / setup.ranks)
    texts = 2 * config.layers * work.text * config.width * value if work.video_tokens else 0
    held = own * config.width * SAMPLING_BYTES[setup.precision] + selection_bytes(config, work) / setup.ranks
    patch = config.patch[1] * config.patch[2]
    values = (work.sequence + work.keyframes) * patch * config.video_channels + work.audio * config.audio_channels
    shown = work.video_tokens * patch * (2 * config.video_channels + 1)
    kept = outside_layers(config) + layer if setup.streamed else total
    return SamplingMemory(
        weights=value * kept,
        activations=setup.batch * (held + texts),
        latents=4 * (SAMPLER_COPIES * values + 2 * setup.batch * shown),
    )
