"""Shuffled orders: one to one at any size, unlike from seed to seed, and even."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.training.data.draws import permuted


def order(size: int, *seed: object) -> list[int]:
    return permuted(np.arange(size, dtype=np.uint64), size, *seed).tolist()


@given(size=st.integers(1, 3000), seed=st.integers())
def test_every_place_is_taken_once(size, seed):
    assert sorted(order(size, seed)) == list(range(size))


def test_a_place_does_not_depend_on_what_else_is_asked():
    whole = order(1000, "seed")
    some = np.array([7, 3, 999], dtype=np.uint64)
    assert permuted(some, 1000, "seed").tolist() == [whole[7], whole[3], whole[999]]


def test_the_seed_names_the_order():
    assert order(100, 1, "a") == order(100, 1, "a")
    assert order(100, 1, "a") != order(100, 1, "b")
    assert order(100, 1, "a") != order(100, 2, "a")


@pytest.mark.parametrize("size", [2, 3, 5, 20])
def test_every_element_comes_first_equally_often(size):
    draws = 1500
    firsts = np.bincount(
        [int(permuted(np.zeros(1, np.uint64), size, seed)[0]) for seed in range(draws)], minlength=size
    )
    expected = draws / size
    chi_square = ((firsts - expected) ** 2 / expected).sum()
    assert chi_square < size - 1 + 6 * np.sqrt(2 * size)  # mean and six standard deviations of its distribution


def test_neighbours_are_parted():
    """Of a shuffled order, about one pair in half of its length stays together: as of a true one."""
    shuffled = np.array(order(2000, "x"))
    assert (np.abs(np.diff(shuffled)) == 1).sum() < 12


def test_places_of_an_order_too_long_to_hold():
    size = 10**12
    places = np.arange(5000, dtype=np.uint64) * np.uint64(199_999_999)
    result = permuted(places, size, "large")
    assert len(set(result.tolist())) == 5000
    assert result.max() < size
