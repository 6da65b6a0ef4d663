"""Which steps are let through."""

import math

import pytest

from skyreels.training.config import GuardConfig
from skyreels.training.errors import TrainingError
from skyreels.training.guard import Guard, UnreadableCount


def test_what_is_not_finite_is_refused_and_not_remembered():
    guard = Guard(GuardConfig())
    assert guard.judge(True, 1.0) is None
    assert guard.judge(False, 1.0) == "the loss is not finite"
    assert guard.judge(True, math.inf) == "the gradient is not finite"
    assert guard.norms == [1.0]


def test_a_spike_is_measured_against_the_median_once_enough_is_known():
    guard = Guard(GuardConfig(spike_factor=10))
    assert guard.judge(True, 1.0) is None
    assert guard.judge(True, 500.0) is None
    for _ in range(7):
        assert guard.judge(True, 1.0) is None
    assert guard.judge(True, 9.9) is None
    assert "10.1 is 10 times the running median 1" in guard.judge(True, 10.1)


def test_a_guard_that_resumes_judges_as_the_one_before():
    first = Guard(GuardConfig(spike_factor=3))
    for norm in range(1, 100):
        first.judge(True, 1 + norm / 100)
    second = Guard(GuardConfig(spike_factor=3), first.norms)
    for norm in (1.5, 4.4, 4.6, 5.2):
        assert (first.judge(True, norm) is None) == (second.judge(True, norm) is None)


def test_only_skips_in_a_row_end_a_run():
    guard = Guard(GuardConfig(max_skipped=2))
    for _ in range(5):
        guard.judge(False, 1.0)
        guard.check(7, "the loss is not finite", ["a"])
        guard.judge(True, 1.0)
    guard.judge(False, 1.0)
    guard.judge(False, 1.0)
    with pytest.raises(TrainingError, match=r"step 9: 2 steps in a row.*Its samples: a, b"):
        guard.check(9, "the loss is not finite", ["a", "b"])


def test_unreadable_samples_are_tolerated_up_to_a_share():
    count = UnreadableCount(GuardConfig(max_unreadable=0.1))
    count.add(4, 1)
    count.check(0, ["one broken file never ends a run"])
    count.add(26, 2)
    count.check(1, [])
    count.add(1, 1)
    with pytest.raises(TrainingError, match=r"step 2: 4 of 31 samples could not be read.*0.1.*x.tar: truncated"):
        count.check(2, ["x.tar: truncated"])
