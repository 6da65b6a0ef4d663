"""Intervals against scipy's and against what they promise: to hold the truth in 95 of 100 samples."""

import numpy as np
import pytest
from scipy.stats import binomtest

from pipelines.evaluation.summary import bootstrap, wilson


@pytest.mark.parametrize(("successes", "count"), [(0, 10), (10, 10), (7, 23), (88, 100)])
def test_wilson_is_scipy_s(successes, count):
    expected = binomtest(successes, count).proportion_ci(0.95, "wilson")
    assert wilson(successes, count) == pytest.approx((expected.low, expected.high), abs=1e-6)


@pytest.mark.parametrize(("successes", "count"), [(0, 0), (3, 2), (-1, 4)])
def test_what_is_no_share_has_no_interval(successes, count):
    with pytest.raises(ValueError, match=r"sample|share"):
        wilson(successes, count)


def test_a_bootstrap_interval_holds_the_mean_nearly_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = [low <= 3.0 <= high for low, high in (bootstrap(rng.normal(3.0, 1.0, 60)) for _ in range(100))]
    assert 88 <= sum(held) <= 100
