"""Learning rate as a pure function of the step."""

import math

from skyreels.training.config import EngineConfig


def learning_rate(step: int, config: EngineConfig) -> float:
    """The rate of step `step` (from 0): a linear warm-up to the peak, then constant, cosine or linear decay.

    Decay ends at `schedule.final` times the peak in the last step of the run.
    """
    peak, schedule = config.optimizer.learning_rate, config.schedule
    if step < schedule.warmup_steps:
        return peak * (step + 1) / schedule.warmup_steps
    if schedule.kind == "constant":
        return peak
    remaining = max(config.steps - 1 - schedule.warmup_steps, 1)
    done = min((step - schedule.warmup_steps) / remaining, 1.0)
    share = 1 - done if schedule.kind == "linear" else (1 + math.cos(math.pi * done)) / 2
    return peak * (schedule.final + (1 - schedule.final) * share)
