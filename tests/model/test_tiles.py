import pytest
import torch
from torch import Tensor

from model.tiles import Tiles


@pytest.mark.parametrize("size", [(9, 7), (8, 8), (20, 33), (31, 8), (64, 48)])
@pytest.mark.parametrize("overlap", [(1, 1), (2, 3), (4, 4)])
def test_tiles_joined_are_the_whole(size: tuple[int, int], overlap: tuple[int, int]) -> None:
    whole = torch.randn(2, 3, *size)
    tiles = Tiles.over(size, (8, 8), overlap)
    parts = tiles.cut(whole)
    assert len(parts) == tiles.count
    assert {tuple(part.shape[-2:]) for part in parts} == {(min(8, size[0]), min(8, size[1]))}
    torch.testing.assert_close(tiles.join(parts), whole)


def test_each_tile_fades_into_the_next_without_a_step() -> None:
    """Tiles that disagree, each of one value: no neighbours in the whole differ by more than a step of the ramp."""
    tiles = Tiles.over((8, 53), (8, 16), (4, 8))
    parts = [torch.full((8, 16), float(index % 2)) for index in range(tiles.count)]
    whole = tiles.join(parts)
    assert whole.diff(dim=1).abs().max() <= 1 / 8 + 1e-6
    assert (whole.min(), whole.max()) == (0, 1)


def test_tiles_of_a_larger_whole_lie_where_those_of_the_smaller_do() -> None:
    def enlarged(part: Tensor) -> Tensor:
        return part.repeat_interleave(8, -1).repeat_interleave(8, -2)

    small = torch.randn(1, 10, 13)
    tiles = Tiles.over((10, 13), (6, 6), (2, 2))
    made = tiles.times(8).join([enlarged(part) for part in tiles.cut(small)])
    torch.testing.assert_close(made, enlarged(small))


def test_tiles_that_share_too_much_or_nothing_are_refused() -> None:
    for overlap in ((0, 2), (5, 2)):
        with pytest.raises(ValueError, match="at least 1, at most half of a tile is shared"):
            Tiles.over((32, 32), (8, 8), overlap)
