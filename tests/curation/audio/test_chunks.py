from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.curation.audio.chunks import Piece, chunk_spans, join_groups


@st.composite
def sounds(draw):
    """A duration and disjoint rising intervals in it."""
    edges = draw(st.lists(st.floats(0, 100), max_size=40, unique=True).map(sorted))
    duration = draw(st.floats(0.1, 120))
    inside = [edge for edge in edges if edge <= duration]
    return duration, list(zip(inside[::2], inside[1::2], strict=False))


@given(sounds())
def test_chunks_cover_everything_once_and_keep_their_bounds(sound):
    duration, sounding = sound
    spans = chunk_spans(0.0, duration, sounding)
    assert spans[0][0] == 0.0
    assert spans[-1][1] == duration
    assert all(before[1] == after[0] for before, after in pairwise(spans))
    assert all(0 < end - start <= 15.0 + 1e-9 for start, end in spans)
    if duration >= 1.0:
        assert all(end - start >= 1.0 - 1e-9 for start, end in spans)


@given(sounds())
def test_a_cut_inside_sound_means_that_no_pause_was_in_reach(sound):
    duration, sounding = sound
    for (start, cut), _ in zip(chunk_spans(0.0, duration, sounding), range(99), strict=False):
        inside = [(a, b) for a, b in sounding if a < cut < b]
        if cut == duration or not inside:
            continue
        latest = min(start + 15.0, duration - 1.0)
        covered = [(a, b) for a, b in sounding if b > start + 7.5 and a < latest]
        gaps = [b for (_, b), (a, _) in pairwise(covered) if a > b]
        assert not gaps
        assert covered[0][0] <= start + 7.5
        assert covered[-1][1] >= latest


def test_a_cut_falls_in_the_middle_of_the_last_pause():
    speech = [(0.0, 4.0), (4.5, 9.0), (10.0, 13.0), (14.0, 20.0)]
    assert chunk_spans(0.0, 20.0, speech) == [(0.0, 13.5), (13.5, 20.0)]


def test_impossible_lengths_are_refused():
    with pytest.raises(ValueError, match="at least twice"):
        chunk_spans(0.0, 20.0, [], longest_s=1.5, shortest_s=1.0)


pieces = st.lists(
    st.builds(Piece, st.integers(), st.sampled_from(["speech", "music"]), st.floats(0.1, 20)), max_size=30
)


@given(pieces, st.floats(0, 1))
def test_groups_hold_every_piece_once_and_fit(pieces, gap):
    groups = join_groups(pieces, gap_s=gap)
    for label in ("speech", "music"):
        joined = [piece for group in groups for piece in group if piece.label == label]
        assert joined == [piece for piece in pieces if piece.label == label]
    for group in groups:
        assert len({piece.label for piece in group}) == 1
        total = sum(piece.duration_s for piece in group) + gap * (len(group) - 1)
        assert total <= 15.0 + 1e-9 or len(group) == 1


@given(pieces)
def test_no_two_neighbouring_groups_of_a_class_could_have_been_one(pieces):
    for label in ("speech", "music"):
        groups = [group for group in join_groups(pieces) if group[0].label == label]
        for group, following in pairwise(groups):
            assert sum(piece.duration_s for piece in group) + following[0].duration_s > 15.0 - 1e-9
