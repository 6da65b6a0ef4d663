import numpy as np
import pytest
import torch
from PIL import Image

from model.media import (
    cover,
    cover_mask,
    image_tensor,
    keep_mask_tensor,
    output_frames,
    resample_frames,
    video_tensor,
)


def test_bytes_survive_the_way_in_and_out():
    array = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)
    assert np.array_equal(output_frames(video_tensor(array), "np"), array)
    frames = [Image.fromarray(frame) for frame in array]
    assert np.array_equal(output_frames(video_tensor(frames), "np"), array)
    assert np.array_equal(np.asarray(output_frames(video_tensor(array), "pil")[2]), array[2])
    torch.testing.assert_close(image_tensor(frames[0]), video_tensor(array)[:, 0])
    torch.testing.assert_close(image_tensor(array[0].astype(np.float64) / 255), video_tensor(array)[:, 0])


def test_wrong_layouts_are_named():
    with pytest.raises(ValueError, match=r"\(3, F, H, W\) floats in \[-1, 1\], not \(5, 3, 8, 8\)"):
        video_tensor(torch.zeros(5, 3, 8, 8))
    with pytest.raises(ValueError, match=r"must end in \(H, W, 3\)"):
        video_tensor(np.zeros((5, 8, 8)))


def test_masks_turn_round_where_they_come_in():
    mask = np.zeros((4, 6), np.uint8)
    mask[:, 4:] = 255
    for form in (mask, Image.fromarray(mask), torch.from_numpy(mask) > 0, mask / 255.0):
        keep = keep_mask_tensor(form)
        assert keep.shape == (1, 1, 4, 6)
        assert keep[..., :4].all()
        assert not keep[..., 4:].any()
    assert keep_mask_tensor(np.zeros((3, 4, 6))).shape == (1, 3, 4, 6)


def test_cover_fills_the_frame_and_cuts_evenly():
    pixels = torch.zeros(3, 2, 20, 60)
    pixels[..., 20:40] = 1.0
    covered = cover(pixels, 10, 10)
    assert covered.shape == (3, 2, 10, 10)
    assert (covered > 0.4).all()
    assert cover(pixels, 20, 60) is pixels


def test_a_scaled_mask_keeps_only_what_was_kept_wholly():
    keep = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    keep[..., 3, 3] = False
    small = cover_mask(keep, 4, 4)
    assert not small[..., 1, 1].any()
    assert small[..., 3, 3].all()


def test_frames_between_frames_are_their_mean():
    frames = torch.randn(1, 3, 5, 2, 2)
    doubled = resample_frames(frames, 9)
    torch.testing.assert_close(doubled[:, :, ::2], frames)
    torch.testing.assert_close(doubled[:, :, 1], (frames[:, :, 0] + frames[:, :, 1]) / 2)
    assert resample_frames(frames[:, :, :1], 3).shape[2] == 3
