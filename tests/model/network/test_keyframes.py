import pytest
import torch

from model.network.keyframes import KeyframeInput, keyframe_indices, keyframe_positions


def test_first_and_last_are_always_keyframes() -> None:
    assert keyframe_indices(21, 10) == (0, 10, 20)
    assert keyframe_indices(21, 8) == (0, 8, 16, 20)
    assert keyframe_indices(21, 100) == (0, 20)
    assert keyframe_indices(1, 4) == (0,)
    with pytest.raises(ValueError, match="at least 1"):
        keyframe_indices(5, 0)


def test_keyframe_tokens_lie_on_the_low_resolution_grid() -> None:
    positions = keyframe_positions((3, 7), (4, 6), (2, 3), torch.device("cpu")).view(2, 4, 6, 3)
    assert positions[0, ..., 0].unique().tolist() == [3]
    assert positions[1, ..., 0].unique().tolist() == [7]
    # Every low-resolution token sits in the middle of the 2 x 2 high-resolution tokens that show the same place.
    centres = positions[0].view(2, 2, 3, 2, 3).mean(dim=(1, 3))
    rows, columns = torch.meshgrid(torch.arange(2.0), torch.arange(3.0), indexing="ij")
    torch.testing.assert_close(centres[..., 1], rows)
    torch.testing.assert_close(centres[..., 2], columns)


def test_at_the_grids_own_size_positions_are_the_grids() -> None:
    positions = keyframe_positions((0,), (2, 2), (2, 2), torch.device("cpu"))
    assert positions[:, 1:].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_every_keyframe_has_an_index() -> None:
    with pytest.raises(ValueError, match="2 keyframe latents but 1 indices"):
        KeyframeInput(torch.zeros(1, 7, 2, 8, 8), indices=(0,))
