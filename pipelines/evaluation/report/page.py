"""report.html: one file with the table, intervals drawn, and clips that play beside the right ones."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipelines.evaluation.report.table import Row
from pipelines.evaluation.run import SuiteResult

_TEMPLATES = Path(__file__).parent / "templates"
_TYPES = {".mp4": "video/mp4", ".flac": "audio/flac"}


@dataclass(frozen=True)
class Shown:
    """One prompt with the clips of every model and the right one, as (label, kind, data URL)."""

    prompt: str
    clips: list[tuple[str, str, str]]
    scores: str


def render_page(
    title: str, rows: Sequence[Row], results: dict[str, Sequence[SuiteResult]], folder: Path, missing: Sequence[str]
) -> str:
    """`folder` holds a folder of media per model. Prompts and names are escaped; the page loads nothing."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    style = (_TEMPLATES / "report.css").read_text("utf-8")
    policy = (
        "default-src 'none'; media-src data:; img-src data:; "
        f"style-src 'sha256-{b64encode(sha256(style.encode()).digest()).decode()}'"
    )
    failures = [
        (model, result.suite, case["seed"], case["error"])
        for model, told in results.items()
        for result in told
        for case in result.cases
        if "error" in case
    ]
    distrusted = sorted(
        {f"{c.metric} on {c.control} ({result.suite})" for told in results.values() for result in told
         for c in result.controls if c.passed is False}
    )  # fmt: skip
    return environment.get_template("report.html.j2").render(
        title=title, rows=rows, shown=_shown(results, folder), failures=failures, distrusted=distrusted,
        missing=missing, style=Markup(style), policy=policy,
    )  # fmt: skip


def _shown(results: dict[str, Sequence[SuiteResult]], folder: Path) -> dict[str, list[Shown]]:
    """By suite: what the models made of the same prompt stands side by side."""
    found: dict[str, dict[str, Shown]] = {}
    for model, told in results.items():
        for result in told:
            for clip in result.shown:
                prompts = found.setdefault(result.suite, {})
                right = [_clip("right", folder / model / clip["right"])]
                shown = prompts.setdefault(clip["made"], Shown(clip["prompt"], right, _scores(clip["scores"])))
                shown.clips.append(_clip(model, folder / model / clip["made"]))
    return {suite: list(prompts.values()) for suite, prompts in found.items()}


def _clip(label: str, path: Path) -> tuple[str, str, str]:
    kind = _TYPES[path.suffix]
    return label, kind.partition("/")[0], f"data:{kind};base64,{b64encode(path.read_bytes()).decode()}"


def _scores(scores: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in scores.items() if value is not None)
