"""The figures of an evaluation as rows, for the terminal and for the page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipelines.evaluation.ablations import Cost
from pipelines.evaluation.metrics import METRICS
from pipelines.evaluation.run import SuiteResult

_HEAD = ("suite", "metric", "model", "value", "95 % interval", "n", "target", "", "ceiling", "controls")


@dataclass(frozen=True)
class Row:
    """One metric of one suite for one model, in words. `mark`: "met", "missed by …", or nothing without a target."""

    suite: str
    metric: str
    model: str
    value: str
    interval: str
    count: str
    target: str
    mark: str
    ceiling: str
    controls: str
    span: tuple[float, float, float] | None
    """(low, value, high) of a share or another number from 0 to 1."""

    def cells(self) -> tuple[str, ...]:
        return (self.suite, self.metric, self.model, self.value, self.interval, self.count, self.target, self.mark,
                self.ceiling, self.controls)  # fmt: skip


def rows_of(model: str, results: Sequence[SuiteResult]) -> Iterator[Row]:
    """Targets first within a suite, as its metrics are listed."""
    for result in results:
        names = sorted(result.scores, key=lambda name: name not in result.held)
        for name in names:
            yield _row(model, result, name)


def cost_rows(model: str, costs: Sequence[Cost]) -> Iterator[Row]:
    """What the network loses without each part, where a suite's controls stand the two figures beside each other."""
    for cost in costs:
        unit = METRICS[cost.metric].unit
        mark = "" if cost.met is None else "met" if cost.met else f"missed by {_number(_short(cost))}"
        yield Row(
            suite=f"{cost.suite} without {cost.ablation}",
            metric=cost.metric,
            model=model,
            value=f"{_number(-cost.score.value)} {unit}".strip(),
            interval=f"{_number(cost.score.low)} … {_number(cost.score.high)}",
            count=str(cost.score.count),
            target="" if cost.bound is None else f">= {_number(cost.bound)}",
            mark=mark,
            ceiling="",
            controls=f"with it {_number(cost.whole)}, without {_number(cost.without)}",
            span=None,
        )


def _short(cost: Cost) -> float:
    return 0.0 if cost.bound is None else cost.bound - cost.score.value


def text_table(rows: Sequence[Row]) -> str:
    """Columns in line; suite names once."""
    cells = [_HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEAD))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _row(model: str, result: SuiteResult, name: str) -> Row:
    metric, score, held = METRICS[name], result.scores[name], result.held.get(name)
    told = [control for control in result.controls if control.metric == name and control.score is not None]
    ceiling = next((control.score.value for control in told if control.control == "truth" and control.score), None)
    controls = [
        f"{control.control} {_number(control.score.value)}{'' if control.passed else '!'}"
        for control in told
        if control.control != "truth" and control.score is not None
    ]
    failed_truth = any(control.control == "truth" and control.passed is False for control in told)
    sign = "<=" if metric.lower_is_better else ">="
    if score is None:
        value, interval, count, span = "-", "", "0", None
    else:
        value = f"{_number(score.value)} {metric.unit}".strip()
        interval, count = f"{_number(score.low)} … {_number(score.high)}", str(score.count)
        span = (score.low, score.value, score.high) if not metric.unit and 0 <= score.low <= score.high <= 1 else None
    mark = ""
    if held is not None:
        mark = "met" if held.met else f"missed by {_number(-held.reached)}"
    elif name in result.held:
        mark = "not measured"
    return Row(
        result.suite,
        name,
        model,
        value,
        interval,
        count,
        f"{sign} {_number(held.bound)}" if held is not None else "",
        mark,
        "" if ceiling is None else _number(ceiling) + ("!" if failed_truth else ""),
        ", ".join(controls),
        span,
    )


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
