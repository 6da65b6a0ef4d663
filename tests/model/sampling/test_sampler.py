import pytest
import torch

from model.sampling.sampler import Cancelled, StepEnd, draw_noise, sample, timestep_schedule

MEAN, STD = 2.0, 0.5


def gaussian_velocity(latents, t):
    """The exact field for data N(MEAN, STD^2): E[z0 - eps | z_t]."""
    variance = t * t * STD**2 + (1 - t) ** 2
    return {name: MEAN + (t * STD**2 - (1 - t)) / variance * (z - t * MEAN) for name, z in latents.items()}


def error(solver, steps, shift=1.0):
    noise = {"video": torch.linspace(-2, 2, 9, dtype=torch.float64).view(1, 9)}
    out = sample(gaussian_velocity, noise, timestep_schedule(steps, shift), solver)
    return (out["video"] - (MEAN + STD * noise["video"])).abs().max().item()


def test_euler_is_first_order_and_heun_second():
    assert error("euler", 64) / error("euler", 128) == pytest.approx(2, rel=0.15)
    assert error("heun", 64) < 0.05 * error("euler", 64)


def test_unipc_from_diffusers_meets_the_exact_solution():
    assert error("unipc", 20) < 0.2 * error("euler", 20)
    assert error("unipc", 40, shift=3.0) < 0.01


def test_a_straight_field_is_exact_in_one_step_for_every_stream():
    noise = {"video": torch.randn(2, 3), "audio": torch.randn(2, 5)}
    goal = {"video": torch.randn(2, 3), "audio": torch.randn(2, 5)}
    for solver in ("euler", "heun"):
        out = sample(lambda z, t: {n: goal[n] - noise[n] for n in z}, noise, timestep_schedule(1), solver)
        for name in goal:
            torch.testing.assert_close(out[name], goal[name])


def test_schedule_rises_from_noise_to_data_and_shift_lingers_in_noise():
    plain, shifted = timestep_schedule(10), timestep_schedule(10, 5.0)
    assert plain[0] == shifted[0] == 0
    assert plain[-1] == shifted[-1] == 1
    assert (shifted.diff() > 0).all()
    assert (shifted[1:-1] < plain[1:-1]).all()
    with pytest.raises(ValueError, match="0 sampling steps"):
        timestep_schedule(0)


def test_the_same_seed_gives_the_same_bits_and_a_sample_ignores_its_neighbours():
    shapes = {"video": (2, 3, 4), "audio": (2, 5)}

    def seeded(*seeds):
        return [torch.Generator().manual_seed(s) for s in seeds]

    both = draw_noise(shapes, seeded(1, 2))
    again = draw_noise(shapes, seeded(1, 2))
    alone = draw_noise({"video": (1, 3, 4), "audio": (1, 5)}, seeded(2))
    for name in shapes:
        assert torch.equal(both[name], again[name])
        assert torch.equal(both[name][1:], alone[name])
    with pytest.raises(ValueError, match="3 generators for a batch of 2"):
        draw_noise(shapes, seeded(1, 2, 3))


def test_callback_sees_progress_and_a_clean_estimate_and_can_cancel():
    seen: list[StepEnd] = []
    noise = {"video": torch.randn(1, 4)}
    out = sample(gaussian_velocity, noise, timestep_schedule(4), "euler", seen.append)
    assert [s.progress for s in seen] == [0.25, 0.5, 0.75, 1.0]
    torch.testing.assert_close(seen[-1].clean["video"], out["video"])

    def stop(step):
        if step.index == 1:
            raise Cancelled("enough")

    with pytest.raises(Cancelled, match="enough"):
        sample(gaussian_velocity, noise, timestep_schedule(4), "euler", stop)


def test_unknown_solver_is_named():
    with pytest.raises(ValueError, match=r"'rk4'.*'euler'"):
        sample(gaussian_velocity, {"video": torch.zeros(1)}, timestep_schedule(1), "rk4")
