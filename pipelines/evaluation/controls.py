"""The judge is judged: the suite's ground truth, and the same clips spoiled, go through the metrics that judge a model.

What is true must score near the top, what is spoiled must not: else the figures beside them mean nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipelines.evaluation.clips import Clip
from pipelines.evaluation.metrics import METRICS, Case, Control, Metric
from pipelines.evaluation.summary import Score, summarise

SHIFT_S = 0.25


@dataclass(frozen=True)
class ControlResult:
    """A metric on one control. `passed` None: the control says nothing of this metric, or none of the clips does."""

    metric: str
    control: Control
    score: Score | None
    bound: float | None
    passed: bool | None


def run_controls(cases: Sequence[Case], names: Sequence[str]) -> list[ControlResult]:
    """Every metric on the truth and on each kind of damage. `cases` hold ground truth as what was made."""
    found = []
    for control, damage in DAMAGE.items():
        spoiled = [damage(cases, number) for number in range(len(cases))]
        for metric in (METRICS[name] for name in names):
            bound = metric.least_on_truth if control == "truth" else metric.bounds.get(control)
            if bound is not None:
                score = summarise(metric, [metric.of(case) for case in spoiled])
                found.append(ControlResult(metric.name, control, score, bound, _passed(metric, control, score, bound)))
    return found


def _passed(metric: Metric, control: Control, score: Score | None, bound: float) -> bool | None:
    """The truth by its value; damage by the near end of its interval, since chance is only met on the average."""
    if score is None:
        return None
    if control == "truth":
        return score.value <= bound if metric.lower_is_better else score.value >= bound
    return score.high >= bound if metric.lower_is_better else score.low <= bound


def _truth(cases: Sequence[Case], number: int) -> Case:
    return cases[number]


def _shuffled(cases: Sequence[Case], number: int) -> Case:
    """What was made for the next prompt; where a picture's own hits are met, with the sound of the one after that."""
    case, seen, heard = (cases[(number + step) % len(cases)] for step in range(3))
    return replace(case, made=replace(seen.made, audio=heard.made.audio) if case.own_hits else seen.made)


def _shifted(cases: Sequence[Case], number: int) -> Case:
    """The sound a quarter of a second late."""
    made = cases[number].made
    if made.audio is None:
        return cases[number]
    late = round(SHIFT_S * made.sample_rate)
    return _with(cases[number], audio=np.roll(made.audio, late, axis=1))


def _frozen(cases: Sequence[Case], number: int) -> Case:
    frames = cases[number].made.frames
    return cases[number] if frames is None else _with(cases[number], frames=np.repeat(frames[:1], len(frames), axis=0))


def _noise(cases: Sequence[Case], number: int) -> Case:
    made, rng = cases[number].made, np.random.default_rng(number)
    frames = None if made.frames is None else rng.integers(0, 256, made.frames.shape, np.uint8)
    audio = None if made.audio is None else (0.1 * rng.standard_normal(made.audio.shape)).astype(np.float32)
    return replace(cases[number], made=replace(made, frames=frames, audio=audio))


def _with(case: Case, **changes: np.ndarray) -> Case:
    made: Clip = replace(case.made, **changes)  # type: ignore[arg-type]
    return replace(case, made=made)


DAMAGE: dict[Control, Callable[[Sequence[Case], int], Case]] = {
    "truth": _truth,
    "shuffled": _shuffled,
    "shifted": _shifted,
    "frozen": _frozen,
    "noise": _noise,
}
