"""What the stages cost: CPU seconds, their share, and how fast one core goes through them."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class StageCost:
    """`x_real_time` is seconds of media per CPU second of this stage alone."""

    stage: str
    cpu_s: float
    share: float
    x_real_time: float


def stage_costs(cpu_s: Mapping[str, float], media_s: float) -> list[StageCost]:
    """Stages from costly to cheap; `media_s` is the media that went through all of them."""
    total = sum(cpu_s.values())
    return [
        StageCost(stage, spent, spent / total, media_s / spent)
        for stage, spent in sorted(cpu_s.items(), key=lambda item: (-item[1], item[0]))
        if spent > 0
    ]
