import math

import numpy as np
import pytest
import torch

from model.sampling.flow import (
    RESIDUAL_STD,
    FlowConfig,
    clean_from_velocity,
    noised,
    resolution_shift,
    sample_timesteps,
    shift_timesteps,
    sigma_of,
    velocity_from_clean,
    velocity_from_residual,
    velocity_target,
)


def test_path_goes_from_noise_to_data_at_its_velocity():
    clean, noise = torch.randn(3, 4, 5, dtype=torch.float64), torch.randn(3, 4, 5, dtype=torch.float64)
    t = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    z = noised(clean, noise, t)
    torch.testing.assert_close(z[0], noise[0])
    torch.testing.assert_close(z[2], clean[2])
    step = 1e-3
    slope = (noised(clean, noise, t + step) - noised(clean, noise, t - step)) / (2 * step)
    torch.testing.assert_close(slope, velocity_target(clean, noise))


def test_velocity_and_clean_predictions_are_two_forms_of_one():
    clean, noise, t = torch.randn(4, 6), torch.randn(4, 6), torch.tensor([0.0, 0.2, 0.5, 0.9])
    z = noised(clean, noise, t)
    torch.testing.assert_close(clean_from_velocity(clean - noise, z, t), clean)
    torch.testing.assert_close(velocity_from_clean(clean, z, t), clean - noise, rtol=1e-4, atol=1e-4)
    assert velocity_from_clean(clean, z, torch.ones(4)).isfinite().all()


@pytest.mark.parametrize("t", [0.0, 0.2, 0.7, 0.95, 1.0])
def test_a_residual_of_nothing_is_the_best_linear_guess_and_a_residual_has_unit_variance(t):
    """Against regression in numpy: v = z0 - eps and z_t are linear in normal z0 and eps."""
    given, level = 0.8, torch.full((1,), t, dtype=torch.float64)
    mixing = np.array([[RESIDUAL_STD, -1.0], [t * RESIDUAL_STD, 1 - t]])  # of (z0 - given) / s and eps, in v and z_t
    covariance = mixing @ mixing.T
    slope = covariance[0, 1] / covariance[1, 1]
    left = covariance[0, 0] - slope * covariance[0, 1]
    z = torch.tensor([[-1.3, 0.4, 2.0]], dtype=torch.float64)
    guess = velocity_from_residual(torch.zeros_like(z), torch.full_like(z, given), z, level)
    np.testing.assert_allclose(guess.numpy(), given + slope * (z.numpy() - t * given), atol=1e-9)
    one = velocity_from_residual(torch.ones_like(z), torch.full_like(z, given), z, level)
    np.testing.assert_allclose((one - guess).numpy(), np.sqrt(left), atol=1e-9)


def test_uniform_timesteps_are_shared_by_modalities_and_spread_evenly():
    t = sample_timesteps(20_000, 2, generator=torch.Generator().manual_seed(0))
    assert t.shape == (20_000, 2)
    assert torch.equal(t[:, 0], t[:, 1])
    assert torch.histc(t[:, 0], 10, 0, 1).sub(2000).abs().max() < 200
    apart = sample_timesteps(20_000, 2, FlowConfig(independent=True), torch.Generator().manual_seed(0))
    assert abs(torch.corrcoef(apart.T)[0, 1]) < 0.03


def test_logit_normal_timesteps_have_the_stated_quartiles():
    config = FlowConfig("logit_normal", logit_mean=-0.5, logit_std=1.2)
    t = sample_timesteps(40_000, 1, config, torch.Generator().manual_seed(1))
    for q in (0.25, 0.5, 0.75):
        normal = torch.distributions.Normal(-0.5, 1.2).icdf(torch.tensor(q))
        assert t.quantile(q).item() == pytest.approx(torch.sigmoid(normal).item(), abs=0.01)


def test_shift_follows_the_formula_in_diffusers_noise_levels():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    sigma = sigma_of(t)
    expected = 5 * sigma / (1 + 4 * sigma)
    torch.testing.assert_close(shift_timesteps(t, 5.0), 1 - expected)
    torch.testing.assert_close(shift_timesteps(t, 1.0), t)
    with pytest.raises(ValueError, match="shift is 0"):
        shift_timesteps(t, 0)


def test_shift_grows_with_the_length_of_the_sequence():
    assert resolution_shift(256) == pytest.approx(math.exp(0.5))
    assert resolution_shift(4096) == pytest.approx(math.exp(1.15))
    assert resolution_shift(1024) < resolution_shift(2048)


def test_timesteps_can_be_shifted_by_the_length_of_the_sequence():
    config = FlowConfig(shift=2.0, by_resolution=True)
    plain = sample_timesteps(100, 1, generator=torch.Generator().manual_seed(0))
    shifted = sample_timesteps(100, 1, config, torch.Generator().manual_seed(0), tokens=1024)
    torch.testing.assert_close(shifted, shift_timesteps(plain, 2.0 * resolution_shift(1024)))
    with pytest.raises(ValueError, match="number of video tokens"):
        sample_timesteps(1, 1, config)


def test_unknown_distribution_is_named():
    with pytest.raises(ValueError, match="'beta'"):
        sample_timesteps(1, 1, FlowConfig("beta"))  # type: ignore[arg-type]
