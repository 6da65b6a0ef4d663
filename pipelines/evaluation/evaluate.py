"""Models side by side on suites: `metrics.json`, `report.html` and their clips in one folder."""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import torch

from model.checksums import CheckpointError
from model.folder import INDEX
from model.generation.components import Components
from model.generator import Generator
from pipelines.evaluation.ablations import ABLATIONS, costs, without
from pipelines.evaluation.films import Format
from pipelines.evaluation.make import format_of, make_clip
from pipelines.evaluation.report.page import render_page
from pipelines.evaluation.report.table import Row, cost_rows, rows_of
from pipelines.evaluation.run import Answer, SuiteResult, run_suite
from pipelines.evaluation.suites import MISSING, SUITES, Suite

TRUTH = "truth"
"""The name of the model that is none: it answers with the right clip, which shows what the judge can see at best."""
USUAL = Format(17, 16.0, 64, 64)


class EvaluationError(ValueError):
    """An evaluation that cannot start; says what to ask for in its place."""


@dataclass(frozen=True)
class Contender:
    """A model that is judged: how it answers, what it makes, and its parts, which the truth has not."""

    name: str
    answer: Answer
    form: Format
    refines: bool = True
    parts: Components | None = None

    @classmethod
    def truth(cls, form: Format = USUAL) -> "Contender":
        return cls(TRUTH, lambda suite, ask, seed: ask.right, form)

    @classmethod
    def of(cls, name: str, generator: Generator, settings: Mapping[str, Any]) -> "Contender":
        def answer(suite: Suite, ask: Any, seed: int) -> Any:
            return make_clip(generator, suite, ask, seed, dict(settings))

        components = generator.components
        return cls(name, answer, format_of(generator), components.spec.refines, components)


def require_model(folder: str) -> None:
    """Raises CheckpointError for what is neither a model's folder nor the truth; no weights are read."""
    if folder != TRUTH and not Path(folder, INDEX).is_file():
        raise CheckpointError(f"{folder} holds no {INDEX}: name the folder of a model, or `{TRUTH}`")


def contender(name: str, folder: str, device: str, settings: Mapping[str, Any]) -> Contender:
    """The model in `folder`, or the truth."""
    if folder == TRUTH:
        return Contender.truth()
    return Contender.of(name, Generator.from_pretrained(folder, device), settings)


def suites_named(names: str) -> list[Suite]:
    """Of "all" or a list with commas. Raises EvaluationError naming what there is."""
    if names == "all":
        return list(SUITES.values())
    unknown = [name for name in names.split(",") if name not in SUITES]
    if unknown:
        raise EvaluationError(f"there is no suite {', '.join(unknown)}: use all, or some of {', '.join(SUITES)}")
    return [SUITES[name] for name in names.split(",")]


@dataclass(frozen=True)
class Run:
    """One suite, of the whole model or of it without a part."""

    suite: str
    without: str | None = None


def runs_of(suites: Sequence[Suite], ablations: Sequence[str]) -> list[Run]:
    """The suites, those that ablations are held against, and these without each part."""
    parted = [Run(suite, name) for name in ablations for suite in ABLATIONS[name].suites]
    names = dict.fromkeys((*(suite.name for suite in suites), *(run.suite for run in parted)))
    return [*(Run(name) for name in names), *parted]


def ablations_named(names: str) -> list[str]:
    """Of "all" or a list with commas; "" is none. Raises EvaluationError naming what there is."""
    wanted = list(ABLATIONS) if names == "all" else [name for name in names.split(",") if name]
    unknown = [name for name in wanted if name not in ABLATIONS]
    if unknown:
        raise EvaluationError(
            f"no part {', '.join(unknown)} can be switched off: use all, or some of {', '.join(ABLATIONS)}"
        )
    return wanted


def evaluate(
    asked: Contender,
    runs: Sequence[Run],
    count: int,
    media: Path,
    *,
    noise_seed: int = 0,
    draws: int = 1,
    progress: Callable[[], None] = lambda: None,
) -> list[SuiteResult]:
    """Every run that the model has the parts for."""
    results = []
    for run in runs:
        suite = SUITES[run.suite]
        if asked.refines or suite.way != "refiner":
            with _parted(asked, run.without):
                results.append(
                    run_suite(
                        suite, asked.answer, asked.form, count, noise_seed=noise_seed, draws=draws,
                        media=None if run.without else media, progress=progress, without=run.without,
                        controlled=not run.without,
                    )
                )  # fmt: skip
    return results


def _parted(asked: Contender, name: str | None) -> AbstractContextManager[None]:
    if name is None:
        return nullcontext()
    if asked.parts is None:
        raise EvaluationError(f"{asked.name} has no parts and cannot do without {name}: leave --ablate out")
    return without(asked.parts, name)


def evaluate_beside(
    make: Callable[[], Contender],
    runs: Sequence[Run],
    count: int,
    media: Path,
    workers: int,
    *,
    noise_seed: int = 0,
    draws: int = 1,
    progress: Callable[[int], None] = lambda clips: None,
) -> list[SuiteResult]:
    """The same by `workers` processes of one thread, each with the contender that `make` makes and a run at a time.

    `progress` is told of the clips of every run that is done.
    """
    ask = partial(evaluate, count=count, media=media, noise_seed=noise_seed, draws=draws)
    results: list[SuiteResult] = []
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imported once, and not by each of them
    with ProcessPoolExecutor(workers, context, _start, (make,)) as pool:
        for told in pool.map(_asked, repeat(ask), runs):
            results += told
            progress(count * draws)
    return results


_here: list[Contender] = []  # of a process of the pool, the one that it asks


def _start(make: Callable[[], Contender]) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _here.append(make())


def _asked(ask: Callable[[Contender, Sequence[Run]], list[SuiteResult]], run: Run) -> list[SuiteResult]:
    return ask(_here[0], [run])


def write_report(output: Path, results: Mapping[str, Sequence[SuiteResult]], asked: Mapping[str, Any]) -> list[Row]:
    """`metrics.json` and `report.html`; returns the rows of the table."""
    parted = {model: costs(told) for model, told in results.items()}
    results = {model: [result for result in told if result.without is None] for model, told in results.items()}
    rows = [row for model, told in results.items() for row in rows_of(model, told)]
    order = {name: place for place, name in enumerate(SUITES)}
    rows.sort(key=lambda row: (order[row.suite], list(results).index(row.model)))
    rows += [row for model, told in parted.items() for row in cost_rows(model, told)]
    figures = {
        "asked": dict(asked),
        "missing": list(MISSING),
        "models": {model: {result.suite: result.as_dict() for result in told} for model, told in results.items()},
        "ablations": {model: [asdict(cost) for cost in told] for model, told in parted.items()},
    }
    (output / "metrics.json").write_text(json.dumps(figures, indent=1, default=float) + "\n", "utf-8")
    page = render_page("Evaluation of " + ", ".join(results), rows, dict(results), output / "media", MISSING)
    (output / "report.html").write_text(page, "utf-8")
    return rows


def flat_metrics(results: Sequence[SuiteResult]) -> dict[str, float]:
    """`suite/metric` to its value, with `_low` and `_high`, for MLflow; `without/part/suite/metric` to its cost."""
    flat = {f"without/{cost.ablation}/{cost.suite}/{cost.metric}": cost.score.value for cost in costs(results)}
    for result in (result for result in results if result.without is None):
        for name, score in result.scores.items():
            if score is not None:
                told = asdict(score)
                flat |= {f"{result.suite}/{name}{'' if key == 'value' else '_' + key}": told[key]
                         for key in ("value", "low", "high")}  # fmt: skip
        if result.distance is not None:
            flat[f"{result.suite}/picture_distance"] = result.distance
        flat[f"{result.suite}/failed"] = float(result.failed)
        flat[f"{result.suite}/trusted"] = float(result.trusted)
    return flat
