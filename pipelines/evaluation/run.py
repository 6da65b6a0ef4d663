"""A suite run: films asked, clips made and judged, controls beside them, all of it as rows."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.evaluation.clips import Clip
from pipelines.evaluation.controls import ControlResult, run_controls
from pipelines.evaluation.films import Format, examples
from pipelines.evaluation.judge.measures import frechet_distance, picture_features
from pipelines.evaluation.metrics import METRICS
from pipelines.evaluation.suites import Ask, Suite
from pipelines.evaluation.summary import Score, summarise

SHOWN = 8  # clips of a suite that are kept for people to look at
LEAST_CONTROLS = 40  # films: of few, one that is hard to read would be a twelfth of what must reach 0.97

Answer = Callable[[Suite, Ask, int], Clip]


@dataclass(frozen=True)
class Held:
    """A metric of a suite held to its target: `reached` is how far it is beyond it (negative: short of it)."""

    bound: float
    reached: float

    @property
    def met(self) -> bool:
        return self.reached >= 0


@dataclass
class SuiteResult:
    """`scores` by metric; `cases` one row per clip with its seed, prompt, scores, and the error where it has one.

    Of `draws` of noise there are as many clips of a film, one behind the other, and `scores` count films.
    """

    suite: str
    scores: dict[str, Score | None]
    held: dict[str, Held | None]
    controls: list[ControlResult]
    cases: list[dict[str, Any]]
    seconds: float
    shown: list[dict[str, Any]] = field(default_factory=list)
    distance: float | None = None
    """Frechet distance of pictures made to those that are right, on simple features: for suites of one size alone."""
    without: str | None = None
    """The part of the model that was switched off (see `ablations`)."""
    draws: int = 1

    @property
    def trusted(self) -> bool:
        """Whether no control failed."""
        return not any(control.passed is False for control in self.controls)

    @property
    def failed(self) -> int:
        return sum("error" in case for case in self.cases)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"trusted": self.trusted, "failed": self.failed}


def run_suite(
    suite: Suite,
    answer: Answer,
    form: Format,
    count: int,
    *,
    noise_seed: int = 0,
    draws: int = 1,
    media: Path | None = None,
    progress: Callable[[], None] = lambda: None,
    without: str | None = None,
    controlled: bool = True,
) -> SuiteResult:
    """Ask `count` films of `answer`; what cannot be made is a row that scores nothing right, and the rest goes on.

    Each film is asked once per draw of noise, `noise_seed` and those after it. The first clips of the first are written
    to `media`, beside the right ones. `without` names the part that the answering model lacks: such a run is held
    against the whole model's. `controlled`: the judge is judged as well, on spoiled clips.
    """
    start = time.perf_counter()
    films = examples(suite.seed, max(count, LEAST_CONTROLS) if controlled else count, form, suite.motion)
    asks = [suite.ask(example, form) for example in films]
    controls = run_controls([ask.case(ask.right) for ask in asks], suite.metrics) if controlled else []
    rows, shown, features = [], [], []
    for (number, ask), draw in product(enumerate(asks[:count]), range(draws)):
        seed = suite.seed + number + 7_919 * (noise_seed + draw)
        row, made = _judged(suite, ask, seed, answer)
        rows.append(row)
        if made is not None and made.frames is not None and ask.right.frames is not None:
            features.append((picture_features(made.frames), picture_features(ask.right.frames)))
        if media is not None and number < SHOWN and draw == 0 and made is not None:
            shown.append(_written(suite, ask, made, number, row, media))
        progress()
    scores = {name: summarise(METRICS[name], values_by_film(rows, name, draws)) for name in suite.metrics}
    return SuiteResult(suite.name, scores, _held(suite, scores, controls), controls, rows,
                       time.perf_counter() - start, shown, _distance(features), without, draws)  # fmt: skip


def values_by_film(rows: Sequence[dict[str, Any]], name: str, draws: int) -> list[float | None]:
    """The mean over each film's draws, of those that tell; None where none does: clips of one film are one."""
    values = list(_values_of(rows, name))
    told = [[v for v in values[at : at + draws] if v is not None] for at in range(0, len(values), draws)]
    return [sum(of_film) / len(of_film) if of_film else None for of_film in told]


def _values_of(rows: Sequence[dict[str, Any]], name: str) -> Iterator[float | None]:
    """Scores of all rows; of a clip that was not made nothing is right, and no number is known."""
    for row in rows:
        if "error" in row:
            yield 0.0 if METRICS[name].kind == "share" else None
        else:
            yield row["scores"][name]


def _distance(features: Sequence[tuple[np.ndarray, np.ndarray]]) -> float | None:
    """None of fewer than two clips."""
    if len(features) < 2:
        return None
    made, right = (np.stack(rows) for rows in zip(*features, strict=True))
    return frechet_distance(made, right)


def _judged(suite: Suite, ask: Ask, seed: int, answer: Answer) -> tuple[dict[str, Any], Clip | None]:
    row: dict[str, Any] = {"seed": seed, "prompt": ask.truth.prompt}
    try:
        made = answer(suite, ask, seed)
        case = ask.case(made)
        return row | {"scores": {name: METRICS[name].of(case) for name in suite.metrics}}, made
    except ValueError as error:
        return row | {"error": f"{type(error).__name__}: {error}"}, None


def _held(suite: Suite, scores: dict[str, Score | None], controls: Sequence[ControlResult]) -> dict[str, Held | None]:
    """None where nothing was measured."""
    ceilings = {c.metric: c.score.value for c in controls if c.control == "truth" and c.score is not None}
    held: dict[str, Held | None] = {}
    for target in suite.targets:
        score, metric = scores[target.metric], METRICS[target.metric]
        bound = target.value * (ceilings.get(target.metric, 1.0) if target.of_ceiling else 1.0)
        sign = -1.0 if metric.lower_is_better else 1.0
        held[target.metric] = None if score is None else Held(bound, sign * (score.value - bound))
    return held


def _written(suite: Suite, ask: Ask, made: Clip, number: int, row: dict[str, Any], media: Path) -> dict[str, Any]:
    """The clip and the right one as files of `media`."""
    media.mkdir(parents=True, exist_ok=True)
    name = f"{suite.name}-{number:03d}"
    return {
        "prompt": ask.arguments["prompt"],
        "made": made.write(media, f"{name}.made").name,
        "right": ask.right.write(media, f"{name}.right").name,
        "scores": row["scores"],
    }
