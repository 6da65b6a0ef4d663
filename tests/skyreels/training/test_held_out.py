"""Which weights are better."""

import pytest

from skyreels.training.held_out import better


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ({"start": 1.8, "trained": 1.6, "averaged": 1.9}, "trained"),
        ({"start": 1.8, "trained": 1.6, "averaged": 1.5}, "averaged"),
        ({"trained": 1.6}, "trained"),  # of the average, not a finite one
        ({"averaged": 1.6}, "averaged"),
        ({}, "averaged"),
    ],
)
def test_the_lower_loss_decides(losses, expected):
    assert better(losses) == expected
