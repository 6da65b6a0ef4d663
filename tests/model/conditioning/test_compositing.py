import pytest
import torch

from model.conditioning import composite


@pytest.fixture
def scene():
    """Source with an object at the border of the edited left half; the generation is 0.1 too bright everywhere."""
    source = torch.full((1, 3, 2, 32, 32), -0.2)
    source[..., 10:20, 8:16] = 0.9
    keep = torch.zeros(1, 1, 2, 32, 32, dtype=torch.bool)
    keep[..., 16:] = True
    return source, torch.full_like(source, -0.1), keep


def test_kept_pixels_are_the_sources_own_bits(scene):
    source, generated, keep = scene
    out = composite(generated, source, keep)
    assert torch.equal(out[..., 16:], source[..., 16:])


def test_no_edited_pixel_of_the_source_comes_through(scene):
    source, generated, keep = scene
    other = torch.where(keep, source, 1.0)
    assert torch.equal(composite(generated, source, keep), composite(generated, other, keep))


def test_the_seam_is_evened_out_and_the_rest_left_alone(scene):
    source, generated, keep = scene
    out = composite(generated, source, keep, feather=6)
    assert (out[..., 15] - source[..., 16]).abs().max() < 0.02
    assert (generated[..., 15] - source[..., 16]).abs().max() > 0.09
    torch.testing.assert_close(out[..., :8], generated[..., :8], atol=1e-3, rtol=0)
    hard = composite(generated, source, keep, feather=0)
    assert torch.equal(hard, torch.where(keep, source, generated))


def test_frames_kept_whole_or_not_at_all_pass_unchanged():
    source, generated = torch.rand(1, 3, 3, 8, 8), torch.rand(1, 3, 3, 8, 8)
    keep = torch.zeros(1, 1, 3, 8, 8, dtype=torch.bool)
    keep[:, :, 0] = True
    out = composite(generated, source, keep)
    assert torch.equal(out[:, :, 0], source[:, :, 0])
    assert torch.equal(out[:, :, 1:], generated[:, :, 1:])
