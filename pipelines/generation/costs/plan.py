"""What a clip will take, before there is a model: on how many devices it can be made, in what memory and time.

    plan = plan_clip(preset, clip, machine, refine=True)       # one line for each number of devices
    print(plan_table(plan))

Memory and operations are those of `model.costs`; a machine says what it holds and how fast it is.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from model.config import Preset, SamplingConfig, TransformerConfig, from_mapping
from model.costs.flops import Workload, forward_flops
from model.costs.memory import (
    EXCHANGES,
    TOUCHES,
    VALUE_BYTES,
    Precision,
    SamplingSetup,
    layer_tokens,
    layer_traffic,
    parameter_counts,
    sampling_memory,
)
from model.inspect import low_resolution_clip, workload
from model.network.keyframes import keyframe_indices
from model.network.refiner import refiner_config, refiner_tiles
from model.sampling.denoiser import runs_together
from model.sampling.guidance import GuidanceScales, guidance_passes
from model.shapes import ClipShape

Way = Literal["resident", "offload", "stream"]
WAYS: dict[Way, str] = {
    "resident": "all weights stay",
    "offload": "--offload: one part at a time",
    "stream": "--stream-layers: layers one by one",
}
"""Where weights lie, the fastest first."""

PRECISION: Precision = "bf16"
MOST_RANKS = 8
"""Devices of one node: the exchange of every layer wants their links."""


class Machine(Protocol):
    """What a plan must know of a device and its links. Bytes, FLOP/s and bytes/s."""

    @property
    def name(self) -> str: ...
    @property
    def memory_limit(self) -> float: ...
    @property
    def memory_rate(self) -> float: ...
    @property
    def process_bytes(self) -> float: ...
    @property
    def copy_rate(self) -> float: ...
    def compute_rate(self, precision: Precision) -> float: ...
    def link_rate(self, group: int) -> float: ...


@dataclass(frozen=True)
class Stage:
    """One network's part of a clip: `calls` of it, over `work`, of which `batch` run together."""

    name: str
    network: TransformerConfig
    work: Workload
    calls: int
    batch: int = 1

    @property
    def operations(self) -> float:
        """Of all calls."""
        return float(self.calls * forward_flops(self.network, self.work))


@dataclass(frozen=True)
class ClipPlan:
    """A clip on `ranks` devices. Bytes are those of the stage that needs most, seconds those of each stage."""

    clip: ClipShape
    base: ClipShape
    stages: tuple[Stage, ...]
    machine: Machine
    ranks: int
    way: Way
    needed: float
    seconds: tuple[float, ...]

    @property
    def fits(self) -> bool:
        return self.needed <= self.machine.memory_limit


def plan_clip(preset: Preset, clip: ClipShape, machine: Machine, *, refine: bool = False) -> list[ClipPlan]:
    """Of a finished `clip`, for each number of devices that heads can be dealt out to: the fastest way that fits, or
    the one that needs least."""
    base = low_resolution_clip(preset, clip) if refine else clip
    stages = tuple(_stages(preset, clip, base, refine))
    heads = preset.transformer.heads
    plans = []
    for ranks in (count for count in range(1, MOST_RANKS + 1) if heads % count == 0):
        ways = [_planned(clip, base, stages, machine, ranks, way) for way in WAYS]
        plans.append(next((plan for plan in ways if plan.fits), ways[-1]))
    return plans


def plan_table(plans: Sequence[ClipPlan]) -> str:
    """The clip, its stages, and a line for each number of devices."""
    first = plans[0]
    clip, base, machine = first.clip, first.base, first.machine
    heard = "with sound" if clip.audio else "silent"
    made = "" if base == clip else f", refined from {base.width}x{base.height} at {base.fps:g} fps"
    lines = [f"{clip.seconds:.2f} s of {clip.width}x{clip.height} at {clip.fps:g} fps, {heard}{made}", ""]
    lines.append(f"{'stage':<10}{'video tokens':>14}{'calls':>8}{'PFLOP':>12}")
    for stage in first.stages:
        operations = stage.operations / 1e15
        lines.append(f"{stage.name:<10}{stage.work.video_tokens:>14,}{stage.calls:>8,}{operations:>12,.0f}")
    lines += ["", f"{machine.name:<6}{'GiB each':>10}{'of':>8}{'fits':>6}{'minutes':>10}   weights"]
    for plan in plans:
        needed, limit = plan.needed / 2**30, machine.memory_limit / 2**30
        fits, minutes = "yes" if plan.fits else "NO", sum(plan.seconds) / 60
        lines.append(f"{plan.ranks:<6}{needed:>10.1f}{limit:>8.1f}{fits:>6}{minutes:>10.1f}   {WAYS[plan.way]}")
    fitting = [plan for plan in plans if plan.fits]
    if fitting:
        few, many = fitting[0], fitting[-1]
        lines += ["", f"runs on {few.ranks} {machine.name} in {_duration(few)}, on {many.ranks} in {_duration(many)}"]
    else:
        lines += ["", f"does not fit on {plans[-1].ranks} {machine.name}: ask for a shorter or smaller clip"]
    lines += ["not counted: the prompt encoder, the codecs (frames are decoded one latent after the other), encoding"]
    return "\n".join(lines)


def _stages(preset: Preset, clip: ClipShape, base: ClipShape, refine: bool) -> Iterator[Stage]:
    """The base, with the keyframes that the refiner is given; the refiner, in tiles where the clip is larger."""
    config, refiner = preset.transformer, preset.refiner
    sampling = from_mapping(SamplingConfig, preset.section("sampling"), f"{preset.name}: sampling")
    streams = frozenset({"video", "audio"} if base.audio else {"video"})
    scales = GuidanceScales(sampling.guidance_scale, sampling.audio_guidance_scale)
    passes = len(guidance_passes(scales, streams, references=(), joint=len(streams) == 2))
    keyframes = None
    if refine:
        count = len(keyframe_indices(base.latent_frames, refiner.keyframe_spacing))
        keyframes = dataclasses.replace(clip, frames=clip.video.frames_of(count), audio=None)
    work = workload(config, base, keyframes=keyframes)
    batch = passes if runs_together("cuda", work.sequence) else 1
    yield Stage("base", config, work, sampling.steps * passes, batch)
    if refine:
        network = refiner_config(config, refiner)
        tiles = refiner_tiles(network, refiner, clip)
        (top, bottom), (left, right) = tiles.rows[0], tiles.columns[0]
        down, across = clip.video.stride[1:]
        tile = dataclasses.replace(clip, height=(bottom - top) * down, width=(right - left) * across, audio=None)
        small = workload(network, tile, sparsity=refiner.sparsity)
        yield Stage("refiner", network, small, refiner.steps * tiles.count)


def _planned(
    clip: ClipShape, base: ClipShape, stages: tuple[Stage, ...], machine: Machine, ranks: int, way: Way
) -> ClipPlan:
    value = VALUE_BYTES[PRECISION]
    weights = {stage.name: value * parameter_counts(stage.network)[0] for stage in stages}
    needed = []
    for stage in stages:
        setup = SamplingSetup(ranks, stage.batch, PRECISION, streamed=way == "stream")
        beside = sum(weights.values()) - weights[stage.name] if way == "resident" else 0.0
        needed.append(sampling_memory(stage.network, stage.work, setup).total + beside)
    seconds = tuple(stage.calls * call_seconds(stage.network, stage.work, machine, ranks, way) for stage in stages)
    return ClipPlan(clip, base, stages, machine, ranks, way, machine.process_bytes + max(needed), seconds)


def call_seconds(
    network: TransformerConfig, work: Workload, machine: Machine, ranks: int = 1, way: Way = "resident"
) -> float:
    """One forward pass: operations, what no rank shares out, elementwise work, the exchange, and streamed weights."""
    alike = forward_flops(network, dataclasses.replace(work, grid=None, keyframes=0, video_references=0))
    shared = forward_flops(network, work) - alike
    computing = (shared / ranks + alike) / machine.compute_rate(PRECISION)
    tokens, kind = layer_tokens(work)
    traffic = layer_traffic(network, work, PRECISION) * network.layers / ranks
    moving = traffic * TOUCHES["forward"] / machine.memory_rate
    values = tokens * network.width * network.layers / ranks
    exchanged = values * VALUE_BYTES[PRECISION] * EXCHANGES[kind] * (ranks - 1) / ranks
    arriving = VALUE_BYTES[PRECISION] * parameter_counts(network)[0] / machine.copy_rate if way == "stream" else 0.0
    return computing + moving + exchanged / machine.link_rate(ranks) + arriving


def _duration(plan: ClipPlan) -> str:
    minutes = sum(plan.seconds) / 60
    return (
        f"{minutes / 60:.1f} h" if minutes > 120 else f"{minutes:.0f} min" if minutes > 2 else f"{minutes * 60:.0f} s"
    )
