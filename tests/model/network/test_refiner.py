import dataclasses

import pytest
import torch

from model.conditioning import VideoCondition
from model.config import RefinerConfig, TransformerConfig
from model.network.mmdit import JointInputs, MMDiT, predict
from model.network.refiner import (
    base_layers,
    enlarged_pixels,
    refined_clip,
    refined_index,
    refiner_condition,
    refiner_config,
    upsample_latents,
)
from model.sampling.flow import clean_from_velocity
from model.shapes import AudioCodecSpec, ClipShape, VideoCodecSpec

BASE = TransformerConfig(
    width=48, heads=2, dual_blocks=1, single_blocks=2, text_width=20, video_channels=3, audio_channels=5, mlp_ratio=2.0
)
REFINER = RefinerConfig(sparsity=0.5, sparse_min_tokens=1)


def base_model() -> MMDiT:
    torch.manual_seed(0)
    model = MMDiT(BASE)
    for parameter in model.parameters():
        if not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def refiner_of(base: MMDiT, settings: RefinerConfig = REFINER) -> MMDiT:
    """With the base's weights; the modulation of a joint model has more rows behind these, for the other branch."""
    model, given = MMDiT(refiner_config(base.config, settings)), base.state_dict()
    shared = {key: given[key][: len(value)] for key, value in model.state_dict().items() if key in given}
    assert model.load_state_dict(shared, strict=False).missing_keys
    return model.eval()


def video_inputs() -> JointInputs:
    return JointInputs(text=torch.randn(2, 6, 20), timesteps=torch.rand(2, 2), video=torch.randn(2, 7, 5, 12, 8))


def test_a_refiner_with_the_bases_weights_computes_what_the_base_does_until_it_is_sparse() -> None:
    base, inputs = base_model(), video_inputs()
    refiner = refiner_of(base)
    assert not refiner.config.audio_channels
    expected = predict(base, inputs).video
    torch.testing.assert_close(predict(refiner, inputs).video, expected, atol=1e-5, rtol=1e-4)
    sparse = predict(refiner, dataclasses.replace(inputs, sparsity=REFINER.sparsity)).video
    assert not torch.allclose(sparse, expected, atol=1e-3)


def test_short_sequences_stay_dense() -> None:
    base, inputs = base_model(), video_inputs()
    refiner = refiner_of(base, dataclasses.replace(REFINER, sparse_min_tokens=5 * 6 * 4 + 1))
    sparse = predict(refiner, dataclasses.replace(inputs, sparsity=0.5)).video
    torch.testing.assert_close(sparse, predict(base, inputs).video, atol=1e-5, rtol=1e-4)


def test_a_shallow_refiner_takes_the_first_dual_and_the_last_single_layers() -> None:
    base = TransformerConfig(48, 2, 3, 4, 20, 3, 5, mlp_ratio=2.0)
    config = refiner_config(base, RefinerConfig(dual_blocks=1, single_blocks=2))
    assert (config.dual_blocks, config.single_blocks, config.prediction) == (1, 2, "velocity")
    assert base_layers(config, base) == (0, 5, 6)
    assert base_layers(refiner_config(base, RefinerConfig(dual_blocks=0)), base) == (3, 4, 5, 6)
    assert base_layers(refiner_config(base, RefinerConfig()), base) == tuple(range(7))
    with pytest.raises(ValueError, match="5 single blocks is deeper than its base of 3 and 4: lower refiner"):
        base_layers(refiner_config(base, RefinerConfig(single_blocks=5)), base)


@torch.no_grad()
def test_a_residual_refiner_that_has_learned_nothing_leads_from_noise_to_what_it_is_given() -> None:
    model = MMDiT(refiner_config(BASE, dataclasses.replace(REFINER, prediction="residual"))).eval()
    inputs = dataclasses.replace(video_inputs(), timesteps=torch.zeros(2, 2))
    noise, given = inputs.video[:, :3], inputs.video[:, 3:6]
    torch.testing.assert_close(clean_from_velocity(predict(model, inputs).video, noise, torch.zeros(2)), given)
    with pytest.raises(ValueError, match="sound is given no latents"):
        dataclasses.replace(BASE, prediction="residual")


def test_frames_double_but_one() -> None:
    clip = ClipShape(81, 16, 544, 960, VideoCodecSpec(16), AudioCodecSpec(40, 44_100, 1024))
    refined = refined_clip(clip, RefinerConfig())
    assert (refined.frames, refined.fps, refined.height, refined.width) == (161, 32, 1088, 1920)
    assert refined.latent_frames == 41
    assert clip.seconds - refined.seconds == pytest.approx(1 / 32)


def test_interpolation_is_exact_on_linear_latents() -> None:
    """A latent that is linear in time, row and column stays so, with first on first and last on last in time."""
    time, row, column = torch.meshgrid(torch.arange(3.0), torch.arange(4.0), torch.arange(6.0), indexing="ij")
    low = (10 * time + row - 2 * column)[None, None]
    refined = upsample_latents(low, (5, 8, 12))[0, 0]
    fine_time = torch.arange(5.0) / 2
    fine_row, fine_column = (torch.arange(8.0) + 0.5) / 2 - 0.5, (torch.arange(12.0) + 0.5) / 2 - 0.5
    expected = 10 * fine_time[:, None, None] + fine_row[:, None] - 2 * fine_column
    torch.testing.assert_close(refined[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1])
    assert upsample_latents(low[:, :, :1], (1, 8, 12)).shape == (1, 1, 1, 8, 12)


def test_enlarged_pixels_are_linear_where_the_codec_changes_nothing() -> None:
    low, seen = torch.randn(2, 3, 3, 4, 6), []
    clip = ClipShape(5, 32, 8, 12, VideoCodecSpec(3, (1, 1, 1)), None)
    made = enlarged_pixels(low, clip, lambda latents: seen.append(latents) or latents, lambda pixels: pixels)
    torch.testing.assert_close(made, upsample_latents(low, (5, 8, 12)))
    assert torch.equal(seen[0], low)
    assert torch.equal(refiner_condition(low, (5, 8, 12), enlarged=made).latents, made)


def test_keyframes_overwrite_and_the_source_is_kept() -> None:
    low, target = torch.zeros(1, 3, 3, 4, 4), (5, 8, 8)
    keyframes = torch.full((1, 3, 2, 8, 8), 7.0)
    plain = refiner_condition(low, target, keyframes=keyframes, keyframe_indices=(0, 2))
    assert plain.latents[0, 0, :, 0, 0].tolist() == [7, 0, 0, 0, 7]
    assert not plain.keep_mask.any()
    keep = torch.zeros(1, 1, *target)
    keep[..., :4] = 1
    source = VideoCondition(torch.full((1, 3, *target), -5.0), keep)
    edited = refiner_condition(low, target, keyframes=keyframes, keyframe_indices=(0, 2), source=source)
    assert (edited.latents[..., :4] == -5).all()
    assert torch.equal(edited.latents[..., 4:], plain.latents[..., 4:])
    assert torch.equal(edited.keep_mask, keep)
    channels = edited.channels(torch.randn(2, 3, *target))
    assert channels.shape == (2, 7, *target)
    with pytest.raises(ValueError, match="must be 2 frames"):
        refiner_condition(low, target, keyframes=keyframes[:, :, :1], keyframe_indices=(0, 2))


def test_places_of_keyframes_on_the_refined_grid() -> None:
    assert [refined_index(index, 21, 41) for index in (0, 10, 20)] == [0, 20, 40]
    assert refined_index(0, 1, 1) == 0
