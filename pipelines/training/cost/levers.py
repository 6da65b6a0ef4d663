"""What would make a curriculum cheaper, each priced by planning it again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from model.config import Preset
from model.costs.flops import sparse_plan
from model.shapes import VideoCodecSpec
from pipelines.training.cost.fit import training_setup
from pipelines.training.cost.plan import StagePlan
from pipelines.training.cost.step import StepTime, step_time
from pipelines.training.cost.workloads import Samples, stage_network

SPARSITY = 0.875
FEW = 0.1
"""Of the samples at the largest size, how many are left."""

Planner = Callable[[Preset, Samples], Sequence[StagePlan]]
"""Plans all stages: of a preset, with samples that spread so."""


@dataclass(frozen=True)
class Lever:
    """A change, what it asks for, and how it is made: to the preset, to the samples' sizes, to each plan's steps."""

    name: str
    asks: str
    preset: Callable[[Preset], Preset] = lambda preset: preset
    rare_largest: bool = False
    kept_attention: bool = False
    sparse: bool = False


def coarser_codec(preset: Preset) -> Preset:
    """Latents of 4x16x16 pixels with three times the channels, as Wan 2.2's: a quarter of the tokens."""
    channels = 3 * preset.video.channels
    return replace(
        preset,
        video=VideoCodecSpec(channels, (preset.video.stride[0], 16, 16), preset.video.causal_first),
        transformer=replace(preset.transformer, video_channels=channels),
    )


KEPT = Lever("attention outputs kept", "keep_attention=true; two or three tensors a layer", kept_attention=True)
CODEC = Lever("codec of 4x16x16", "a codec trained for it: video_codec and video of the preset", coarser_codec)
SPARSE = Lever(
    f"sparse attention in the base, {SPARSITY:.1%}", "stages that teach it; built for the refiner", sparse=True
)
RARE = Lever("few 1080p samples", f"{FEW:.0%} of the largest size: --sizes", rare_largest=True)
LEVERS = (KEPT, CODEC, SPARSE, RARE)


def price(planner: Planner, preset: Preset, samples: Samples) -> str:
    """GPU-hours with each lever alone, and with all of them."""
    usual = _hours(planner(preset, samples))
    rows = [(lever.name, lever.asks, _with(planner, preset, samples, [lever])) for lever in LEVERS]
    rows.append(("all of them", "", _with(planner, preset, samples, LEVERS)))
    lines = [f"what would change {usual:,.0f} GPU-hours"]
    for name, asks, spent in rows:
        lines.append(f"  {name:<40}{spent:>14,.0f}{spent / usual - 1:>+7.0%}  {asks}".rstrip())
    return "\n".join(lines)


def _with(planner: Planner, preset: Preset, samples: Samples, levers: Sequence[Lever]) -> float:
    for lever in levers:
        preset = lever.preset(preset)
        samples = _rare_largest(preset, samples) if lever.rare_largest else samples
    kept, sparse = (any(getattr(lever, name) for lever in levers) for name in ("kept_attention", "sparse"))
    return _hours([_retimed(plan, kept, sparse) for plan in planner(preset, samples)])


def _hours(plans: Sequence[StagePlan]) -> float:
    return sum(plan.device_hours for plan in plans)


def _rare_largest(preset: Preset, samples: Samples) -> Samples:
    """The same with few samples of the preset's largest size."""
    sizes = sorted({int(size) for size in preset.section("training")["sizes"].values()})
    shares = dict(samples.sizes) or dict.fromkeys(sizes, 1.0)
    largest = max(shares)
    return replace(
        samples, sizes=tuple((size, share * (FEW if size == largest else 1)) for size, share in shares.items())
    )


def _retimed(plan: StagePlan, kept: bool, sparse: bool) -> StagePlan:
    """The same steps with attention that is not made again in the backward pass, or that is sparse on the grid."""
    network, recipe = stage_network(plan.stage), plan.stage.recipe
    ranks = plan.cluster.devices // recipe.sequence_parallel
    changes = sparse and bool(network.video_channels) and not network.sparse
    if changes:
        network = replace(network, sparse=True)
    times: list[StepTime] = []
    for item, time in zip(plan.items, plan.times, strict=True):
        if changes and sparse_plan(network, item.work) is not None:
            time = step_time(
                network,
                replace(item.work, sparsity=SPARSITY),
                plan.cluster,
                training_setup(plan.stage, plan.cluster, item),
                accumulation=plan.slots // ranks,
                sample_bytes=item.sample_bytes,
            )
        again = (
            kept and recipe.activation_checkpointing and not recipe.keep_attention
        )  # forward, again, and twice its work backward: one of four
        times.append(replace(time, attention=0.75 * time.attention) if again else time)
    return replace(plan, times=tuple(times))
