"""Properties of clip boundaries, on generated films, and hand-worked examples."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.curation.pool.segments import SegmentLimits, Span, segment

SLACK = 1e-5


def spans(longest: float) -> st.SearchStrategy[list[tuple[float, float]]]:
    one = st.tuples(st.floats(0, 120), st.floats(0.05, longest)).map(lambda pair: (pair[0], pair[0] + pair[1]))
    return st.lists(one, max_size=8)


films = st.fixed_dictionaries(
    {
        "duration_s": st.floats(0.5, 120),
        "cuts": st.lists(st.floats(0, 120), max_size=8, unique=True).map(sorted),
        "transitions": spans(3.0),
        "speech": spans(20.0),
    }
)


def inside(time: float, stretches: list[tuple[float, float]]) -> bool:
    return any(a + SLACK < time < b - SLACK for a, b in stretches)


@settings(max_examples=300, deadline=None)
@given(films, st.sampled_from([(2.0, 15.0), (1.0, 4.0), (3.0, 6.0)]))
def test_every_second_is_in_one_clip_or_has_a_reason(film, lengths):
    limits = SegmentLimits(*lengths)
    clips, uncovered = segment(**film, limits=limits)
    pieces = sorted([*((c.start_s, c.end_s) for c in clips), *((u.start_s, u.end_s) for u in uncovered)])
    edges = [0.0, *(end for _, end in pieces)]
    assert all(abs(start - edge) < SLACK for (start, _), edge in zip(pieces, edges, strict=False))
    assert abs(edges[-1] - film["duration_s"]) < SLACK
    for clip in clips:
        assert limits.min_s - SLACK <= clip.seconds <= limits.max_s + SLACK
        assert not any(clip.start_s + SLACK < cut < clip.end_s - SLACK for cut in film["cuts"])
        assert not any(min(clip.end_s, b) - max(clip.start_s, a) > SLACK for a, b in film["transitions"])
    for span in uncovered:
        if span.reason == "remainder":
            assert span.end_s - span.start_s < limits.min_s
        if span.reason == "speech":
            assert span.end_s - span.start_s <= limits.max_trim_s + SLACK


@settings(max_examples=300, deadline=None)
@given(films)
def test_a_boundary_divides_an_utterance_only_where_no_pause_is_in_reach(film):
    limits = SegmentLimits()
    clips, _ = segment(**film, limits=limits)
    cuts = [0.0, film["duration_s"], *film["cuts"], *(edge for span in film["transitions"] for edge in span)]
    for clip in clips:
        is_split = not any(abs(clip.end_s - cut) < SLACK for cut in cuts)
        if is_split and inside(clip.end_s, film["speech"]):
            # Then speech covers every place where this clip could have ended.
            shot_end = min((cut for cut in cuts if cut > clip.end_s), default=film["duration_s"])
            earliest, latest = clip.start_s + limits.min_s, min(clip.start_s + limits.max_s, shot_end)
            places = [earliest + (latest - earliest) * k / 200 for k in range(201)]
            assert all(any(a - SLACK <= p <= b + SLACK for a, b in film["speech"]) for p in places)


def test_a_long_shot_falls_into_even_clips():
    clips, uncovered = segment(40.0, [])
    assert uncovered == []
    assert [round(clip.seconds, 3) for clip in clips] == [13.333, 13.333, 13.333]


def test_a_boundary_moves_to_the_pause():
    clips, _ = segment(20.0, [], speech=[(1.0, 9.0), (9.5, 12.0), (12.6, 19.0)])
    assert clips == [Span(0.0, pytest.approx(9.4)), Span(pytest.approx(9.4), 20.0)]


def test_only_the_shortest_remainder_is_dropped():
    # The only pauses are before 1 s and from 14.2 s on, where less than a clip is left.
    clips, uncovered = segment(16.0, [], speech=[(1.0, 14.2)])
    assert clips == [Span(0.0, 15.0)]
    assert [tuple(span) for span in uncovered] == [(15.0, 16.0, "remainder")]


def test_an_utterance_that_a_cut_divides_is_left_out():
    clips, uncovered = segment(20.0, [10.0], speech=[(8.5, 11.0)])
    assert clips == [Span(0.0, pytest.approx(8.4)), Span(pytest.approx(11.1), 20.0)]
    assert [span.reason for span in uncovered] == ["speech", "speech"]


def test_endless_speech_is_divided_rather_than_lost():
    clips, uncovered = segment(40.0, [], speech=[(-5.0, 50.0)])
    assert sum(clip.seconds for clip in clips) == pytest.approx(40.0)
    assert uncovered == []


def test_like_shots_become_one_scene_and_split_at_their_cut():
    clips, _ = segment(20.0, [6.0, 9.0], similarities=[0.9, 0.2], limits=SegmentLimits(merge_above=0.8))
    assert clips == [Span(0.0, 9.0), Span(9.0, 20.0)]
    clips, _ = segment(20.0, [7.0], similarities=[0.9], limits=SegmentLimits(merge_above=0.8))
    assert clips == [Span(0.0, 7.0), Span(7.0, 20.0)]


def test_a_long_shot_splits_where_it_is_quiet():
    clips, _ = segment(20.0, [], quiet=lambda time: abs(time - 11.2))
    assert clips[0].end_s == pytest.approx(11.2, abs=0.15)


def test_refuses_lengths_that_cannot_be_met():
    with pytest.raises(ValueError, match="half of max_s"):
        SegmentLimits(min_s=8.0, max_s=15.0)
    with pytest.raises(ValueError, match="one for each cut"):
        segment(10.0, [5.0], similarities=[])
