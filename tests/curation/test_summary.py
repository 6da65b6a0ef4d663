"""What a run says of itself: why everything that is not in its dataset is not, row by row and in sum."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.curation.pool import tables
from pipelines.curation.records import Clip, Kind, Rejection, Source, SourceReport, Status
from pipelines.curation.summary import rejects_table, summarise
from skyreels.storage import Storage

BLURRED = Rejection(stage="filter", reason="basic:visual.sharpness", remedy="change the rule", detail="0.1 < 0.4")
BROKEN = Rejection(stage="probe", reason="empty_file", remedy="fetch it again")


def _source(name, kind=Kind.VIDEO, **changes):
    report = SourceReport(source=Source(source_id=name, uri=f"/in/{name}", kind=kind, size=9), status=Status.OK,
                          seconds=12.0, sha256=f"hash of {name}", **changes)  # fmt: skip
    return tables.source_rows("part", [report])[0]


def _failed(name):
    return _source(name) | {"status": "failed", "attempts": 2, **BROKEN.model_dump()}


def _clip(source, index=0, **changes):
    clip = Clip(key=f"{source}_{index:05d}", source_id=source, kind=changes.pop("kind", Kind.VIDEO),
                start_s=4.0 * index, end_s=4.0 * index + 4, **changes)  # fmt: skip
    return tables.clip_rows("part", [clip], {})[0]


def _rejects(clips, decisions, sources):
    return rejects_table(clips, decisions, sources).to_pylist()


def test_a_source_that_could_not_be_read_is_one_row_with_its_attempts():
    (row,) = _rejects([], {}, [_failed("a")])
    assert (row["uri"], row["key"], row["status"], row["attempts"]) == ("/in/a", None, "failed", 2)
    assert (row["stage"], row["reason"], row["remedy"]) == ("probe", "empty_file", "fetch it again")


def test_a_clip_that_was_not_chosen_is_one_row_with_its_span():
    clip = _clip("a", 1)
    (row,) = _rejects([clip], {clip["key"]: BLURRED}, [_source("a")])
    assert (row["key"], row["start_s"], row["end_s"], row["status"]) == ("a_00001", 4.0, 8.0, "rejected")
    assert (row["stage"], row["reason"], row["detail"]) == ("filter", "basic:visual.sharpness", "0.1 < 0.4")


def test_spans_that_became_no_clip_are_listed_and_the_source_is_not_listed_again():
    sources = [_source("a", uncovered=[(0.0, 0.8, "short_shot"), (0.8, 12.0, "transition")])]
    rows = _rejects([], {}, sources)
    assert [(r["start_s"], r["end_s"], r["reason"]) for r in rows] == [
        (0.0, 0.8, "short_shot"),
        (0.8, 12.0, "transition"),
    ]
    assert {r["stage"] for r in rows} == {"segment"}


def test_a_source_without_anything_says_so():
    (row,) = _rejects([], {}, [_source("a")])
    assert (row["stage"], row["reason"], row["end_s"]) == ("segment", "no_clip", 12.0)


def _joined():
    """Three short sounds in one clip: only the first has a clip of its own name."""
    parts = [("a", 0.0, 0.7), ("b", 0.1, 0.9), ("c", 0.0, 0.5)]
    return _clip("a", parts=parts, kind=Kind.AUDIO), [_source(name, Kind.AUDIO) for name in "abc"]


def test_a_source_that_was_joined_into_a_kept_clip_is_not_rejected():
    clip, sources = _joined()
    assert _rejects([clip], {clip["key"]: None}, sources) == []


def test_a_joined_clip_that_was_not_chosen_is_a_row_for_each_of_its_sources():
    clip, sources = _joined()
    rows = _rejects([clip], {clip["key"]: BLURRED}, sources)
    assert [(r["uri"], r["key"], r["start_s"], r["end_s"]) for r in rows] == [
        ("/in/a", "a_00000", 0.0, 0.7),
        ("/in/b", "a_00000", 0.1, 0.9),
        ("/in/c", "a_00000", 0.0, 0.5),
    ]
    assert {r["reason"] for r in rows} == {BLURRED.reason}


FATES = st.lists(st.sampled_from(["failed", "nothing", "span", "kept", "dropped", "both", "joined"]), max_size=8)


@settings(max_examples=80, deadline=None)
@given(FATES, st.booleans())
def test_every_source_is_in_the_manifest_or_in_the_rejects(fates, first_is_kept):
    sources, clips, decisions = [], [], {}
    joined = [f"s{i}" for i, fate in enumerate(fates) if fate == "joined"]
    for i, fate in enumerate(fates):
        name = f"s{i}"
        uncovered = [(0.0, 1.0, "remainder")] if fate == "span" else []
        sources.append(_failed(name) if fate == "failed" else _source(name, uncovered=uncovered))
        if fate in ("kept", "dropped", "both"):
            found = [_clip(name, index) for index in range(2 if fate == "both" else 1)]
            decisions |= {clip["key"]: None if fate == "kept" else BLURRED for clip in found}
            clips += found
        if fate == "both":
            decisions[clips[-1]["key"]] = None
        if fate == "joined" and name == joined[0]:
            clips.append(_clip(name, parts=[(piece, 0.0, 0.5) for piece in joined]))
            decisions[clips[-1]["key"]] = None if first_is_kept else BLURRED
    rows = _rejects(clips, decisions, sources)
    kept = [clip for clip in clips if decisions[clip["key"]] is None]
    named = {clip["source_id"] for clip in kept} | {p for clip in kept for p, _, _ in json.loads(clip["parts"])}
    assert named | {row["source_id"] for row in rows} == {source["source_id"] for source in sources}
    out = {row["key"] for row in rows if row["key"]}
    assert out == {key for key, why in decisions.items() if why is not None}


def _reject(stage, reason, detail):
    return {"stage": stage, "reason": reason, "detail": detail, "remedy": f"mend {reason}"}


def test_the_rule_that_took_most_is_named_with_what_it_saw_and_what_to_do(tmp_path):
    rejects = [
        _reject("probe", "empty_file", ""),
        _reject("filter", "basic:short_side", "short_side = 240 < 480"),
        _reject("filter", "basic:short_side", "short_side = 100 < 480"),
    ]
    found = summarise(Storage(str(tmp_path)), [], [], {}, rejects, 1.0)
    assert list(found.rejected) == ["filter:basic:short_side", "probe:empty_file"]
    assert found.took_most == (
        "filter:basic:short_side took most, 2 of 3 (such as: short_side = 240 < 480): mend basic:short_side"
    )
    assert summarise(Storage(str(tmp_path)), [], [], {}, [], 1.0).took_most == ""
