import hashlib
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.curation.choice.balance import Cell, balance, concept_labels, motion_pattern, quota
from pipelines.curation.recipe import BalanceConfig

CELLS = st.builds(Cell, st.sampled_from("abc"), st.sampled_from(["still", "pan, slow"]))
CLIPS = st.dictionaries(st.integers(0, 10_000).map(lambda n: f"clip{n}"), CELLS, max_size=120)
CONFIGS = st.builds(
    BalanceConfig,
    max_per_cell=st.none() | st.integers(1, 20),
    temper=st.floats(0, 1),
)


@given(CLIPS, CONFIGS)
def test_every_clip_is_kept_or_dropped_and_cells_keep_their_order(clips, config):
    result = balance(clips, config)
    assert sorted([*result.kept, *(d.key for d in result.dropped)]) == sorted(clips)
    assert sum(before for before, _ in result.cells.values()) == len(clips)
    for _cell, (before, after) in result.cells.items():
        assert 1 <= after <= min(before, config.max_per_cell or before)
    sizes = sorted(result.cells.values())
    assert all(a[1] <= b[1] for a, b in pairwise(sizes))  # a bigger cell never keeps less


@given(CLIPS, CONFIGS, st.randoms(use_true_random=False))
def test_the_order_of_clips_does_not_matter(clips, config, random):
    shuffled = list(clips.items())
    random.shuffle(shuffled)
    assert balance(dict(shuffled), config) == balance(clips, config)


@given(CLIPS, st.integers(1, 5))
def test_a_cell_keeps_the_smallest_hashes(clips, cap):
    result = balance(clips, BalanceConfig(max_per_cell=cap, temper=0))
    for cell in result.cells:
        members = [key for key in clips if clips[key] == cell]
        expected = sorted(members, key=lambda key: hashlib.blake2b(key.encode(), digest_size=8).digest())[:cap]
        assert {key for key in result.kept if clips[key] == cell} == set(expected)


@given(CLIPS, CLIPS, st.integers(1, 20))
def test_new_clips_never_push_out_delivered_ones_under_a_fixed_cap(first, more, cap):
    config = BalanceConfig(max_per_cell=cap, temper=0)
    delivered = balance(first, config).kept
    assert set(delivered) <= set(balance({**more, **first}, config, delivered).kept)


def test_quotas_follow_the_formula():
    sizes = {Cell("a", ""): 10, Cell("b", ""): 100, Cell("c", ""): 10_000}
    assert list(quota(sizes, BalanceConfig(temper=0.5)).values()) == [10, 100, 1000]
    assert list(quota(sizes, BalanceConfig(temper=1)).values()) == [10, 100, 100]
    assert list(quota(sizes, BalanceConfig(temper=0)).values()) == [10, 100, 10_000]
    assert list(quota(sizes, BalanceConfig(temper=0.5, max_per_cell=70)).values()) == [10, 70, 70]


def test_a_drop_says_why():
    clips = {f"{i}": Cell("cats", "pan, slow") for i in range(3)}
    dropped = balance(clips, BalanceConfig(max_per_cell=2)).dropped
    assert [d.reason for d in dropped] == ["cats x pan, slow holds 3 clips and may keep 2"]


def test_concepts_find_separate_groups_in_any_order():
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), 25)
    vectors = (np.eye(16)[truth] + rng.normal(size=(100, 16)) * 0.05).astype(np.float32)
    keys = [f"{i:03d}" for i in range(100)]
    labels = concept_labels(keys, vectors, 4)
    assert len(set(zip(truth.tolist(), labels.tolist(), strict=True))) == 4
    order = rng.permutation(100)
    assert np.array_equal(concept_labels([keys[i] for i in order], vectors[order], 4), labels[order])


def test_more_concepts_than_clips():
    assert len(concept_labels(["a"], np.ones((1, 4), np.float32), 16)) == 1
    assert len(concept_labels([], np.ones((0, 4), np.float32), 16)) == 0


def test_directions_of_a_movement_are_one_pattern():
    assert motion_pattern("pan_left", 0.05) == motion_pattern("pan_right", 0.05) == "pan, slow"
    assert motion_pattern("static", 0.0) == "static, calm"
    assert motion_pattern(None, None) == "still"
