"""Funnel, mixes and costs against plain counting."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from pipelines.curation.report.costs import stage_costs
from pipelines.curation.report.funnel import funnel_steps, reasons
from pipelines.curation.report.mixes import bucket_table, class_mixes


def test_the_funnel_ends_at_what_was_kept_and_loses_nothing_in_between(run):
    steps = {step.name: step for step in funnel_steps(run.clips, run.sources, run.decisions)}
    stages = Counter(why.stage for why in run.decisions.values() if why is not None)
    kept = [key for key, why in run.decisions.items() if why is None]
    lengths = {row["key"]: row["end_s"] - row["start_s"] for row in run.clips.to_pylist()}
    assert [steps[name].count for name in ("sources", "readable", "wanted")] == [12, 11, 10]
    assert {stage: steps[f"after {stage}"].lost for stage in stages} == stages
    assert min(stages.values()) > 0
    last = steps["after caption"]
    assert last.count == len(kept)
    assert last.seconds == pytest.approx(sum(lengths[key] for key in kept))
    assert last.share == pytest.approx(len(kept) / len(lengths))
    in_order = [step for step in steps.values() if step.unit == "clips"]
    for before, after in pairwise(in_order):
        assert before.count == after.count + after.lost
        assert before.share == pytest.approx(after.share + after.lost_share)


def test_an_unknown_stage_gets_its_own_step(run):
    key = next(key for key, why in run.decisions.items() if why is None)
    why = next(why for why in run.decisions.values() if why is not None).model_copy(update={"stage": "audit"})
    steps = funnel_steps(run.clips, run.sources, {**run.decisions, key: why})
    assert (steps[-1].name, steps[-1].lost) == ("after audit", 1)


def test_reasons_count_every_clip_span_and_source_once(run):
    told = reasons(run.clips, run.sources, run.decisions)
    counted = {(why.stage, why.reason): why.count for why in told if why.what == "clips"}
    assert counted == Counter((why.stage, why.reason) for why in run.decisions.values() if why is not None)
    assert {(why.what, why.reason): why.count for why in told if why.what != "clips"} == {
        ("spans", "too_short"): 10,
        ("sources", "no_frames"): 1,
        ("sources", "basic:visual.luma"): 1,
    }
    assert [why.count for why in told] == sorted((why.count for why in told), reverse=True)
    assert all(why.remedy for why in told)
    assert next(why.seconds for why in told if why.what == "spans") == pytest.approx(15.0)


def test_mixes_count_classes_kept_and_rejected(run):
    rows = run.clips.to_pylist()
    kept = np.array([run.decisions[row["key"]] is None for row in rows])
    found = {mix.name: mix for mix in class_mixes(run.clips, kept)}
    assert found.keys() == {"kind", "audio.class", "visual.fade"}
    inside = Counter(row["audio.class"] for row, keep in zip(rows, kept, strict=True) if keep)
    outside = Counter(row["audio.class"] for row, keep in zip(rows, kept, strict=True) if not keep)
    for share in found["audio.class"].shares:
        assert (share.kept, share.rejected) == (inside[share.value], outside[share.value])
        assert share.kept_share == pytest.approx(inside[share.value] / kept.sum())
    assert {share.value for share in found["visual.fade"].shares} == {"yes", "no"}


def test_free_text_is_not_a_class(run):
    table = run.clips.append_column("text.spoken", [[f"sentence {i}" for i in range(run.clips.num_rows)]])
    assert "text.spoken" not in {mix.name for mix in class_mixes(table, np.ones(table.num_rows, bool))}


def test_buckets_are_laid_out_by_shape_and_length(run):
    table = bucket_table({**run.buckets, "video-720p-16x9-10s": 1})
    assert table.columns == ("still", "2s", "5s", "10s")
    assert dict(table.rows) == {
        "audio": (0, 0, 4, 0),
        "image-720p-1x1": (1, 0, 0, 0),
        "video-720p-16x9": (0, 5, 2, 1),
    }
    assert table.largest == 5
    assert bucket_table({}).rows == ()


def test_stage_costs_are_shares_and_speeds():
    cut, read = stage_costs({"read": 20.0, "cut": 60.0, "idle": 0.0}, 480.0)
    assert (cut.stage, cut.share, cut.x_real_time) == ("cut", 0.75, 8.0)
    assert (read.stage, read.share, read.x_real_time) == ("read", 0.25, 24.0)
