"""Slots among ranks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyreels.training.config import EngineConfig
from skyreels.training.errors import TrainingError
from skyreels.training.ranks import Ranks


@given(st.integers(1, 20), st.integers(1, 9), st.integers(1, 4))
def test_every_slot_weighs_the_same_on_any_number_of_workers(slots, data_parallel, shared):
    world = data_parallel * shared
    config = EngineConfig(steps=1, workers=world + shared, min_workers=1, sequence_parallel=shared)
    weights = [0.0] * slots
    for rank in range(world):
        ranks = Ranks.of(rank, world, slots, config)
        steps = list(ranks.step_slots())
        assert len(steps) == ranks.accumulation
        for slot, weight in steps:
            weights[slot] += weight / ranks.accumulation / world  # as DeepSpeed averages
    assert weights == pytest.approx([1 / slots] * slots)


def test_neighbours_share_a_slot():
    config = EngineConfig(steps=1, workers=4, sequence_parallel=2)
    found = [[slot for slot, _ in Ranks.of(rank, 4, 4, config).step_slots()] for rank in range(4)]
    assert found == [[0, 2], [0, 2], [1, 3], [1, 3]]


def test_slots_that_cannot_be_shared_evenly_are_refused_with_a_remedy():
    with pytest.raises(TrainingError, match=r"6 slots cannot be shared evenly by 4 .*workers to one of 1, 2, 3, 6"):
        Ranks.of(0, 4, 6, EngineConfig(steps=1, workers=4))
    with pytest.raises(TrainingError, match="3 workers do not form groups of sequence_parallel = 2"):
        Ranks.of(0, 3, 6, EngineConfig(steps=1, workers=3, sequence_parallel=2))
