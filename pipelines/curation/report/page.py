"""The page itself: one file without scripts, styles or media from anywhere else.

Everything that comes from inputs (file names, captions, error messages) is text that somebody else wrote: Jinja2
escapes all of it, and the page's policy runs no script and no style but its own, by their hashes.
"""

import re
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from pipelines.curation.records import Kind, Status
from pipelines.curation.report import costs, funnel, gallery, mixes
from pipelines.curation.report.data import ReportData
from pipelines.curation.report.histograms import score_histograms
from pipelines.curation.report.plots import Plot, plot

_TEMPLATES = Path(__file__).parent / "templates"
_MOST_SOURCES = 200  # rows of sources that gave nothing; all of them are in rejects.parquet
# What HTML cannot hold, and the controls that make a name read backwards: gpj.exe as exe.jpg.
_NOT_SHOWN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
_TICKED = re.compile("`([^`]+)`")


def render_report(data: ReportData) -> str:
    """The report as one HTML document."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {written.__name__: written for written in _FILTERS}
    style, script = ((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    page = environment.get_template("report.html.j2").render(
        **_view(data), policy=_policy(style, script), style=Markup(style), script=Markup(script)
    )
    return _NOT_SHOWN.sub("\N{REPLACEMENT CHARACTER}", page)


def count(number: float) -> str:
    return f"{number:,.0f}"


def unit(number: float, plural: str) -> str:
    return plural.removesuffix("s") if number == 1 else plural


def counted(number: float, plural: str) -> str:
    """Such as `1 clip`, `1,204 clips`."""
    return f"{count(number)} {unit(number, plural)}"


def duration(seconds: float) -> str:
    """Such as `48.2 s`, `12.5 min`, `3,104 h`."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.1f} min"
    hours = seconds / 3600
    return f"{hours:,.1f} h" if hours < 1000 else f"{hours:,.0f} h"


def percent(share: float) -> str:
    """One decimal; a share that is not zero never reads as zero, one that is not all never as all."""
    if 0 < share < 0.001:
        return "<0.1 %"
    if 0.999 < share < 1:
        return ">99.9 %"
    return f"{100 * share:.1f} %"


def size(number: float) -> str:
    """Bytes, such as `3.2 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"


def times(ratio: float) -> str:
    return f"{ratio:,.0f}×" if ratio >= 100 else f"{ratio:.3g}×"


def ticked(text: str) -> Markup:
    """What stands between backticks as code, everything escaped."""
    return Markup(_TICKED.sub(r"<code>\1</code>", str(escape(text))))


_FILTERS = (count, unit, counted, duration, percent, size, times, ticked)


def _view(data: ReportData) -> dict[str, Any]:
    kept = np.array([data.decisions[key] is None for key in data.clips.column("key").to_pylist()], bool)
    shown = gallery.cards(data.clips, data.sources, data.decisions, data.captions, data.previews, data.recipe)
    steps = data.steps or funnel.funnel_steps(data.clips, data.sources, data.decisions)
    plots = [plot(histogram) for histogram in score_histograms(data.clips, kept, data.recipe)]
    return {
        "title": data.title,
        "recipe": data.recipe,
        "recipe_yaml": yaml.safe_dump(data.recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
        "headline": _headline(data, steps),
        "steps": steps,
        "reasons": data.reasons or funnel.reasons(data.clips, data.sources, data.decisions),
        "sampled": len(data.clips) if data.steps else 0,
        "plots": _by_kind(plots),
        "buckets": mixes.bucket_table(data.buckets),
        "mixes": mixes.class_mixes(data.clips, kept),
        "duplicates": gallery.duplicate_groups(data.decisions, {card.key for card in shown}),
        "lost_sources": _lost_sources(data),
        "most_sources": _MOST_SOURCES,
        "replay_command": data.replay_command,
        "cards": shown,
        "card_of": {card.key: card for card in shown},
        "filters": gallery.filters(shown),
        "left_out": len(data.previews) - len(shown),
        "stages": costs.stage_costs(data.throughput.cpu_s, steps[0].seconds),
        "throughput": data.throughput,
        "provenance": data.provenance,
    }


def _headline(data: ReportData, steps: Sequence[funnel.Step]) -> dict[str, float]:
    found = next(step for step in steps if step.name == "clips found")
    cpu_s, media_s = sum(data.throughput.cpu_s.values()), steps[0].seconds
    return {
        "sources": steps[0].count,
        "media_s": media_s,
        "clips": found.count,
        "clips_kept": steps[-1].count,
        "kept_s": steps[-1].seconds,
        "retention": steps[-1].share if found.count else 0.0,
        "cpu_s": cpu_s,
        "x_core": media_s / cpu_s if cpu_s else 0.0,
    }


def _by_kind(plots: list[Plot]) -> list[tuple[str, list[Plot], list[Plot]]]:
    """Per kind its plots with thresholds and those without."""
    groups = []
    for kind in Kind:
        of_kind = [plot for plot in plots if plot.histogram.kind is kind]
        ruled = [plot for plot in of_kind if plot.histogram.thresholds]
        if of_kind:
            groups.append((kind.value, ruled, [plot for plot in of_kind if not plot.histogram.thresholds]))
    return groups


def _lost_sources(data: ReportData) -> list[dict[str, Any]]:
    """Sources that gave nothing, those that a replay may help first."""
    columns = ["uri", "kind", "status", "attempts", "stage", "reason", "remedy", "detail"]
    rows = [row for row in data.sources.select(columns).to_pylist() if row["status"] != Status.OK]
    return sorted(rows, key=lambda row: (row["status"] != Status.FAILED, row["stage"], row["reason"], row["uri"]))


def _policy(style: str, script: str) -> str:
    """The Content-Security-Policy under which nothing is fetched and only our own style and script run."""
    return (
        "default-src 'none'; img-src data:; media-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    )


def _digest(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
