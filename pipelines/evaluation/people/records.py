"""The rubric, and what raters said, one JSON object per line.

A comparison shows two clips in an order drawn from the pair's own name, so that every pair is seen both ways round
by the same number of raters, and first places favour nobody. `check` marks items whose answer is known.
"""

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

RUBRIC = Path(__file__).with_name("rubric.yaml")
Verdict = Literal["good", "same", "bad"]
_SWAPPED: dict[str, Verdict] = {"good": "bad", "same": "same", "bad": "good"}


class RecordError(ValueError):
    """A line that is no record; names the file, the line and the field."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    rater: Annotated[str, Field(min_length=1)]
    item: Annotated[str, Field(min_length=1, description="the prompt, or its number in a suite")]
    dimension: Annotated[str, Field(min_length=1)]
    """"overall", a dimension of the rubric, or "dimension/sub-dimension"."""


class Likert(_Record):
    """Points for one model's clip. `expected` is set on items that check attention: the points that are right."""

    kind: Literal["likert"] = "likert"
    model: Annotated[str, Field(min_length=1)]
    points: Annotated[int, Field(ge=1, le=5)]
    expected: Annotated[int, Field(ge=1, le=5)] | None = None


class Comparison(_Record):
    """Good, same or bad: what was shown first beside what was shown second."""

    kind: Literal["gsb"] = "gsb"
    first: Annotated[str, Field(min_length=1)]
    second: Annotated[str, Field(min_length=1)]
    verdict: Verdict
    expected: Verdict | None = None

    def seen_from(self, model: str) -> Verdict:
        """The verdict as if `model` had been shown first."""
        if model not in (self.first, self.second):
            raise ValueError(f"{model} is not compared here: {self.first} and {self.second} are")
        return self.verdict if model == self.first else _SWAPPED[self.verdict]


Record = Annotated[Likert | Comparison, Field(discriminator="kind")]


class _Line(BaseModel):
    record: Record


def read_records(path: str | Path) -> list[Likert | Comparison]:
    """Every record of a JSONL file, held to the rubric. Raises RecordError."""
    known = dimensions()
    found: list[Likert | Comparison] = []
    for number, line in enumerate(Path(path).read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = _Line.model_validate({"record": json.loads(line)}).record
        except json.JSONDecodeError as error:
            raise RecordError(f"{path}, line {number}: no JSON ({error}); write one object per line") from error
        except ValidationError as error:
            fault = error.errors()[0]
            field = ".".join(str(part) for part in fault["loc"][1:])
            raise RecordError(f"{path}, line {number}, {field}: {fault['msg']}") from error
        if record.dimension not in known:
            raise RecordError(f"{path}, line {number}, dimension: {record.dimension!r} is not in {RUBRIC.name}")
        found.append(record)
    return found


def write_records(path: str | Path, records: Iterable[Likert | Comparison]) -> None:
    """One line each, without what is not set."""
    lines = [record.model_dump_json(exclude_none=True) + "\n" for record in records]
    Path(path).write_text("".join(lines), "utf-8")


def dimensions() -> set[str]:
    """What may be rated: "overall", dimensions, and "dimension/sub-dimension"."""
    told: Mapping[str, Mapping[str, str]] = yaml.safe_load(RUBRIC.read_text("utf-8"))["dimensions"]
    return {"overall", *told, *(f"{name}/{sub}" for name, subs in told.items() for sub in subs)}


def shown_order(rater: int, item: str, models: tuple[str, str]) -> tuple[str, str]:
    """(first, second) for the rater of that number: raters in turn see a pair both ways round."""
    swapped = (zlib.crc32("/".join((item, *sorted(models))).encode()) + rater) % 2
    first, second = sorted(models)
    return (second, first) if swapped else (first, second)


def attentive(records: Sequence[Likert | Comparison], least: float = 0.75) -> Iterator[Likert | Comparison]:
    """What is left without the checks, and without raters who failed more than a quarter of theirs.

    A check of points is met within one point.
    """
    checks: dict[str, list[bool]] = {}
    for record in records:
        if record.expected is not None:
            checks.setdefault(record.rater, []).append(_met(record))
    for record in records:
        met = checks.get(record.rater, [True])
        if record.expected is None and sum(met) >= least * len(met):
            yield record


def _met(record: Likert | Comparison) -> bool:
    if isinstance(record, Likert):
        assert record.expected is not None
        return abs(record.points - record.expected) <= 1
    return record.verdict == record.expected
