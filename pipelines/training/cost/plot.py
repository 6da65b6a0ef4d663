"""A plan as a picture: device-hours of each stage by what they go into, and memory of a device against its limit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.training.cost.plan import GIBI, StagePlan
from pipelines.training.cost.step import PARTS

MEMORY = ("weights", "gradients", "optimizer", "average", "gathered", "activations")


def plot_plans(plans: Sequence[StagePlan], path: str | Path) -> None:
    """Write a PNG or SVG, by the suffix of `path`."""
    from matplotlib.figure import Figure

    names = [plan.stage.name for plan in plans]
    figure = Figure(figsize=(max(6.0, 1.0 * len(plans) + 3.0), 7.5), layout="constrained")
    hours, memory = figure.subplots(2, 1)
    _stack(hours, names, {PARTS[part]: [_hours(plan, part) for plan in plans] for part in PARTS})
    hours.set_ylabel("thousand device-hours")
    plan = plans[0]
    hours.set_title(f"{plan.stage.preset.name} on {plan.cluster.devices} {plan.cluster.name}")
    parts = {part: [getattr(plan.memory, part) / GIBI for plan in plans] for part in MEMORY}
    process = plan.cluster.calibration.process_bytes.value / GIBI
    _stack(memory, names, {"process": [process] * len(plans), **parts})
    memory.axhline(plan.cluster.memory_limit / GIBI, color="black", linestyle="--", linewidth=1, label="can be filled")
    memory.set_ylabel("GiB on one device")
    for axes in (hours, memory):
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="x", rotation=30)
    figure.savefig(path, dpi=130)


def _hours(plan: StagePlan, part: str) -> float:
    """What is hidden is taken off gathering and reading, which it is part of."""
    step = plan.step
    seconds = step.parts[part]
    if part in ("gathering", "reading"):
        waiting = step.gathering + step.reading
        seconds -= step.hidden * seconds / waiting if waiting else 0.0
    return plan.device_hours * seconds / step.total / 1000


def _stack(axes: Any, names: Sequence[str], parts: dict[str, list[float]]) -> None:
    floor = [0.0] * len(names)
    for label, values in parts.items():
        axes.bar(names, values, bottom=floor, label=label, width=0.7)
        floor = [below + value for below, value in zip(floor, values, strict=True)]
