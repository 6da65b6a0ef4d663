"""What a plan's GPU-hours go into, beside what others say they spent."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipelines.training.cost.plan import StagePlan
from pipelines.training.cost.step import PARTS

ANCHORS = (
    ("Seaweed-7B, arXiv 2504.08685", "video, 7 B parameters, on H100", 665_000),
    ("MOVA, arXiv 2602.08794", "video and audio, about", 1_030_000),
)
"""Published: whose, what it is, GPU-hours."""


@dataclass(frozen=True)
class Hours:
    """GPU-hours of the batches of one task at one size and length, and of what parts of a step."""

    stage: str
    size: int
    seconds: float
    parts: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def hours(plans: Sequence[StagePlan]) -> Iterator[Hours]:
    """Of every item; what of gathering and reading is hidden counts for nothing, by its share of both."""
    for plan in plans:
        availability = plan.cluster.calibration.availability.value
        for item, time in zip(plan.items, plan.times, strict=True):
            spent = item.steps * plan.cluster.devices / availability / 3600
            parts = {name: seconds * spent for name, seconds in time.parts.items()}
            waits = parts["gathering"] + parts["reading"]
            shown = 1 - min(time.hidden * spent / waits, 1.0) if waits else 1.0
            parts |= {name: parts[name] * shown for name in ("gathering", "reading")}
            yield Hours(plan.stage.name, item.bucket.size, item.bucket.seconds, parts)


def drivers(plans: Sequence[StagePlan]) -> str:
    """GPU-hours by stage, by part of a step, by size and by length; and what others published."""
    found = list(hours(plans))
    total = sum(each.total for each in found)
    by: dict[str, dict[str, float]] = {name: defaultdict(float) for name in ("stage", "part", "size", "length")}
    for each in found:
        by["stage"][each.stage] += each.total
        by["size"][f"{each.size} px" if each.size else "sound alone"] += each.total
        by["length"][f"{each.seconds:g} s" if each.seconds else "pictures"] += each.total
        for name, spent in each.parts.items():
            by["part"][PARTS[name]] += spent
    lines = [f"what {total:,.0f} GPU-hours go into"]
    for name, shares in by.items():
        largest = sorted(shares.items(), key=lambda pair: -pair[1])
        shown = ", ".join(f"{what} {spent / total:.0%}" for what, spent in largest if spent >= 0.005 * total)
        lines.append(f"  by {name:<8}{shown}")
    lines += ["", "beside it, as published"]
    for whose, what, spent in ANCHORS:
        lines.append(f"  {spent:>12,}  {whose} ({what}): this plan is {total / spent:,.1f} times that")
    return "\n".join(lines)
