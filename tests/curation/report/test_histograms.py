import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.curation.pool import tables
from pipelines.curation.recipe import Recipe
from pipelines.curation.records import Clip, Kind
from pipelines.curation.report.histograms import bin_scores, round_up, score_histograms
from pipelines.curation.report.plots import BASELINE, WIDTH, plot

finite = st.floats(-1e6, 1e6, allow_subnormal=False).map(lambda value: round(value, 4))


def kept_rows(run):
    return np.array([run.decisions[key] is None for key in run.clips.column("key").to_pylist()])


@pytest.fixture(scope="module")
def histograms(run):
    return score_histograms(run.clips, kept_rows(run), run.recipe)


@settings(max_examples=200, deadline=None)
@given(st.lists(finite, min_size=1, max_size=200), st.lists(finite, max_size=3))
def test_bins_are_even_cover_the_middle_and_put_a_near_threshold_on_an_edge(values, thresholds):
    values = np.array(values)
    edges = bin_scores(values, thresholds)
    widths = np.diff(edges)
    assert 1 <= len(widths) <= 70
    assert (widths > 0).all()
    np.testing.assert_allclose(widths, widths[0], rtol=1e-6)
    low, high = np.percentile(values, [0.5, 99.5])
    slack = 1e-6 * max(widths[0], abs(low), abs(high))
    assert edges[0] <= low + slack
    assert edges[-1] >= high - slack
    near = [t for t in thresholds if low - (high - low) < t < high + (high - low)]
    for threshold in near:
        assert edges[0] < threshold < edges[-1] or np.isclose(threshold, edges[[0, -1]]).any()
    if near:
        assert np.abs(edges - near[0]).min() <= slack


@pytest.mark.parametrize("value", [0.0, 2.0, -70.5, 44_100.0])
def test_one_value_is_a_thin_bar_in_the_middle(value):
    edges = bin_scores(np.full(9, value), [])
    assert 4 <= len(edges) - 1 <= 12
    assert edges[0] + edges[-1] == pytest.approx(2 * value, abs=3 * (edges[1] - edges[0]))


@pytest.mark.parametrize(("width", "rounded"), [(0.011, 0.02), (0.02, 0.02), (2.1, 2.5), (2.6, 5), (7, 10), (130, 200)])
def test_bin_widths_are_round(width, rounded):
    assert round_up(width) == pytest.approx(rounded)


def test_every_clip_is_in_the_bin_where_it_belongs(run, histograms):
    rows = [row | {"kept": run.decisions[row["key"]] is None} for row in run.clips.to_pylist()]
    assert {(h.kind, h.score) for h in histograms} == {
        *((Kind.VIDEO, name) for name in ("visual.luma", "visual.sharpness", "audio.silence", "sync.offset_frames")),
        *((kind, name) for kind in (Kind.VIDEO, Kind.AUDIO) for name in ("audio.silence", "audio.loudness")),
    }
    for h in histograms:
        of_kind = [row for row in rows if row["kind"] == h.kind]
        measured = [row for row in of_kind if row[h.score] is not None]
        counts = {True: [0] * len(h.kept), False: [0] * len(h.kept)}
        for row in measured:
            value = min(max(row[h.score], h.edges[0]), h.edges[-1])
            place = next(i for i in range(len(h.kept)) if value < h.edges[i + 1] or i == len(h.kept) - 1)
            counts[row["kept"]][place] += 1
        assert counts[True] == h.kept.tolist()
        assert counts[False] == h.rejected.tolist()
        assert h.missing == len(of_kind) - len(measured)
        assert h.below == sum(row[h.score] < h.edges[0] for row in measured)
        assert h.above == sum(row[h.score] > h.edges[-1] for row in measured)


def test_shares_beyond_are_those_of_the_rules(run, histograms):
    """Counted again clip by clip by the rules themselves."""
    rows = run.clips.to_pylist()
    seen = set()
    for h in histograms:
        for rule in [*run.recipe.extract.gate.values(), *run.recipe.filters.values()]:
            if rule.score != h.score or h.kind not in rule.kinds:
                continue
            asked = [r for r in rows if r["kind"] == h.kind and rule.applies(h.kind, r) and r[h.score] is not None]
            broken = sum(rule.broken_by(row) is not None for row in asked)
            assert sum(threshold.beyond for threshold in h.thresholds) == broken
            assert {threshold.applies for threshold in h.thresholds} == {len(asked)}
            assert sum(threshold.share for threshold in h.thresholds) == pytest.approx(broken / len(asked))
            seen.add((rule.score, broken > 0))
    assert {("visual.luma", True), ("visual.sharpness", True), ("sync.offset_frames", True)} <= seen


def test_scores_that_are_not_numbers_are_left_out_and_counted():
    scores = [1.0, 2.0, float("nan"), float("inf"), None]
    clips = [Clip(key=f"k{i}", source_id="s", kind=Kind.VIDEO, scores={"a.b": v}) for i, v in enumerate(scores)]
    table = tables.clip_table(tables.clip_rows("p", clips, {}))
    (only,) = score_histograms(table, np.ones(5, bool), Recipe())
    assert (only.measured, only.missing) == (2, 3)


def test_bars_are_as_high_as_their_counts(histograms):
    for h in histograms:
        drawn = plot(h)
        total = h.kept + h.rejected
        filled = np.flatnonzero(total)
        assert len(drawn.bars) == len(filled)
        scale = {round(b.kept_height / h.kept[i], 1) for b, i in zip(drawn.bars, filled, strict=True) if h.kept[i] > 1}
        assert len(scale) <= 1
        for bar, index in zip(drawn.bars, filled, strict=True):
            assert bar.kept_y + bar.kept_height == pytest.approx(BASELINE)
            assert bar.rejected_y + bar.rejected_height == pytest.approx(bar.kept_y)
            assert (bar.kept_height > 0, bar.rejected_height > 0) == (h.kept[index] > 0, h.rejected[index] > 0)
            assert f"{h.kept[index]} kept, {h.rejected[index]} rejected" in bar.tooltip
            assert 0 <= bar.x < bar.x + bar.width <= WIDTH


def test_thresholds_are_drawn_at_their_value_and_shade_what_breaks_them(histograms):
    (sync,) = [plot(h) for h in histograms if h.score == "sync.offset_frames"]
    low, high = sync.marks
    edges = sync.histogram.edges
    for mark, value in ((low, -3), (high, 3)):
        assert mark.x == pytest.approx((value - edges[0]) / (edges[-1] - edges[0]) * WIDTH, abs=0.01)
    assert (low.shade_x, low.shade_x + low.shade_width) == (0, low.x)
    assert (high.shade_x, high.shade_x + high.shade_width) == (high.x, WIDTH)
    assert sync.outside == ()


def test_a_far_threshold_is_named_as_off_the_axis(run):
    far = run.recipe.filters["sharp"].model_copy(update={"min": -1e6})
    recipe = run.recipe.model_copy(update={"filters": {"sharp": far}})
    found = score_histograms(run.clips, kept_rows(run), recipe)
    (sharp,) = [plot(h) for h in found if h.score == "visual.sharpness"]
    assert sharp.marks == ()
    assert [threshold.value for threshold in sharp.outside] == [-1e6]
