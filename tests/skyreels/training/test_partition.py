"""Pieces of a parameter among ranks, for any sizes and numbers of ranks."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from skyreels.training.partition import bounds, piece_size, spans

sizes = st.integers(0, 200)
worlds = st.integers(1, 17)


@given(sizes, worlds)
def test_pieces_are_those_of_a_padded_and_chunked_tensor(numel, world):
    values = torch.arange(numel)
    size = piece_size(numel, world)
    chunks = torch.nn.functional.pad(values, (0, size * world - numel), value=-1).reshape(world, size)
    for rank in range(world):
        start, stop = bounds(numel, rank, world)
        assert values[start:stop].tolist() == [value for value in chunks[rank].tolist() if value >= 0]


@given(sizes, worlds, worlds)
def test_what_one_number_of_ranks_wrote_any_other_reads(numel, writers, readers):
    values = torch.arange(numel)
    pieces = [values[slice(*bounds(numel, rank, writers))] for rank in range(writers)]
    read = []
    for rank in range(readers):
        start, stop = bounds(numel, rank, readers)
        for span in spans(numel, start, stop, writers):
            assert len(read) == start + span.at
            read += pieces[span.rank][span.start : span.stop].tolist()
    assert read == values.tolist()
