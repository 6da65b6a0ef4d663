import pytest
import torch

from model.codecs.latents import LatentNorm, LatentStatistics, measure_latents, weights_identity


def test_statistics_agree_with_torch_over_all_clips():
    clips = [torch.randn(2, 3, 5) * torch.tensor([1.0, 4.0, 0.5])[:, None] + 7 for _ in range(4)]
    measured = measure_latents(lambda clip: clip, clips)
    flat = torch.cat(clips).transpose(0, 1).flatten(1)
    assert measured.mean == pytest.approx(flat.mean(1).tolist(), rel=1e-4)
    assert measured.std == pytest.approx(flat.std(1, unbiased=False).tolist(), rel=1e-4)
    assert measured.count == 40


def test_normalised_latents_have_unit_variance_and_come_back():
    latents = torch.randn(3, 4, 6, 2, 2) * 5 - 2
    norm = LatentNorm(measure_latents(lambda clip: clip, [latents]))
    normal = norm.normalise(latents)
    assert normal.mean((0, 2, 3, 4)).abs().max() < 1e-5
    torch.testing.assert_close(normal.std((0, 2, 3, 4), unbiased=False), torch.ones(4))
    torch.testing.assert_close(norm.denormalise(normal), latents)


def test_dead_channels_are_refused_by_number():
    with pytest.raises(ValueError, match=r"channels \[1\] never vary"):
        measure_latents(lambda clip: clip, [torch.stack([torch.randn(4), torch.ones(4)])[None]])


def test_statistics_are_stored_beside_the_weights(tmp_path):
    statistics = LatentStatistics((0.5, -1.0), (2.0, 3.0), 12)
    statistics.save(tmp_path)
    assert LatentStatistics.load(tmp_path) == statistics
    assert LatentStatistics.load(tmp_path / "elsewhere") is None


def test_identity_follows_configuration_and_every_weight():
    state = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}
    identity = weights_identity({"x": 1}, state)
    assert identity == weights_identity({"x": 1}, dict(reversed(state.items())))
    assert identity != weights_identity({"x": 2}, state)
    changed = {**state, "a": state["a"] + torch.eye(2, 3) * 1e-6}
    assert identity != weights_identity({"x": 1}, changed)
    assert identity != weights_identity({"x": 1}, {**state, "a": state["a"].T.contiguous()})
