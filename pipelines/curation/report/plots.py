"""Where the marks of a histogram go on its canvas."""

import math
from dataclasses import dataclass

import numpy as np

from pipelines.curation.report.histograms import Histogram, Threshold, round_up

WIDTH, HEIGHT, BASELINE = 320, 112, 96  # user units of the SVG; the axis labels stand under the baseline
_TOP = 14  # room for the labels of thresholds
_LEAST = 1.2  # height of the smallest bin that is not empty, so that a few clips among many can be seen


@dataclass(frozen=True)
class Bar:
    """One bin: its kept clips from the baseline up, its rejected clips on top of them."""

    x: float
    width: float
    kept_y: float
    kept_height: float
    rejected_y: float
    rejected_height: float
    tooltip: str


@dataclass(frozen=True)
class Mark:
    """A threshold's line at `x`, and the shaded span beyond it from `shade_x`; its label is anchored inwards."""

    x: float
    shade_x: float
    shade_width: float
    label: str
    anchor: str  # start, end
    threshold: Threshold


@dataclass(frozen=True)
class Plot:
    histogram: Histogram
    bars: tuple[Bar, ...]
    marks: tuple[Mark, ...]
    outside: tuple[Threshold, ...]  # thresholds that do not lie on the axis
    ticks: tuple[tuple[float, str], ...]  # x, label


def plot(histogram: Histogram) -> Plot:
    """Bars scaled to the fullest bin, thresholds on the same axis."""
    edges = histogram.edges
    low, span = float(edges[0]), float(edges[-1] - edges[0])

    def place(value: float) -> float:
        return round((value - low) / span * WIDTH, 2)

    on_axis = [threshold for threshold in histogram.thresholds if edges[0] <= threshold.value <= edges[-1]]
    return Plot(
        histogram=histogram,
        bars=_bars(histogram, [place(float(edge)) for edge in edges]),
        marks=tuple(_mark(threshold, place(threshold.value)) for threshold in on_axis),
        outside=tuple(threshold for threshold in histogram.thresholds if threshold not in on_axis),
        ticks=tuple((place(value), f"{value:g}") for value in _ticks(low, span)),
    )


def _bars(histogram: Histogram, places: list[float]) -> tuple[Bar, ...]:
    tallest = max(1, int(np.max(histogram.kept + histogram.rejected)))
    bars = []
    for index, (kept, rejected) in enumerate(zip(histogram.kept, histogram.rejected, strict=True)):
        if kept + rejected == 0:
            continue
        kept_height, rejected_height = _height(int(kept), tallest), _height(int(rejected), tallest)
        left, right = places[index], places[index + 1]
        span = f"{histogram.edges[index]:.4g} to {histogram.edges[index + 1]:.4g}"
        bars.append(
            Bar(
                x=left,
                width=round(right - left - 0.8, 2),
                kept_y=round(BASELINE - kept_height, 2),
                kept_height=kept_height,
                rejected_y=round(BASELINE - kept_height - rejected_height, 2),
                rejected_height=rejected_height,
                tooltip=f"{span}: {kept} kept, {rejected} rejected",
            )
        )
    return tuple(bars)


def _ticks(low: float, span: float) -> list[float]:
    """Three to seven round values along the axis, away from its very ends, where labels would be cut."""
    step = round_up(span / 6)
    first, last = math.ceil((low + 0.02 * span) / step), math.floor((low + 0.98 * span) / step)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _height(count: int, tallest: int) -> float:
    return round(max(_LEAST, count / tallest * (BASELINE - _TOP)), 2) if count else 0.0


def _mark(threshold: Threshold, x: float) -> Mark:
    shade_x, shade_width = (0.0, x) if threshold.bound == "min" else (x, round(WIDTH - x, 2))
    anchor = "start" if x < WIDTH / 2 else "end"
    return Mark(x, shade_x, shade_width, f"{threshold.bound} {threshold.value:g}", anchor, threshold)
