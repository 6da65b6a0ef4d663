"""Rectified flow with data at t = 1 (paper, section 3.1): paths, targets, timesteps.

diffusers counts the other way (sigma = 1 - t); `sigma_of` is the only place that converts.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class FlowConfig:
    """How timesteps are drawn in training.

    `shift` above 1 draws more noise (see `shift_timesteps`); with `by_resolution` it is multiplied by
    `resolution_shift` of the clip's tokens. `logit_mean` and `logit_std` belong to `logit_normal`, where a negative
    mean favours noise. `independent` draws one timestep per modality instead of a shared one.
    """

    distribution: Literal["uniform", "logit_normal"] = "uniform"
    shift: float = 1.0
    logit_mean: float = 0.0
    logit_std: float = 1.0
    independent: bool = False
    by_resolution: bool = False


def noised(clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """z_t = t z0 + (1 - t) eps (paper, equation of section 3.1); `t` is (B,), the others (B, ...)."""
    t = _over(t, clean)
    return t * clean + (1 - t) * noise


def velocity_target(clean: Tensor, noise: Tensor) -> Tensor:
    """dz/dt = z0 - eps: what the model predicts (paper, section 3.1)."""
    return clean - noise


def clean_from_velocity(velocity: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
    """The clean latents a velocity points at: z_t + (1 - t) v."""
    return z_t + (1 - _over(t, z_t)) * velocity


def velocity_from_clean(clean: Tensor, z_t: Tensor, t: Tensor, smallest: float = 0.05) -> Tensor:
    """The velocity towards predicted clean latents, (z0 - z_t) / (1 - t); 1 - t is kept above `smallest`."""
    return (clean - z_t) / (1 - _over(t, z_t)).clamp(min=smallest)


RESIDUAL_STD = 0.5
"""How far clean latents of unit variance lie from those that a refiner is given, about."""


def velocity_from_residual(residual: Tensor, given: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
    """The velocity of clean latents around `given`, where a network states the `residual` at unit variance.

    Were z0 normal around `given` with deviation s = `RESIDUAL_STD`, the velocity would be normal for every z_t: with
    mean given + (t s^2 - (1 - t)) / D (z_t - t given) and deviation s / sqrt(D), D = t^2 s^2 + (1 - t)^2. So a network
    starts from the best linear guess, and what it adds has one size at all t (cf. Karras et al. 2022, section 5).
    """
    t = _over(t, z_t)
    spread = t**2 * RESIDUAL_STD**2 + (1 - t) ** 2
    guess = given + (t * RESIDUAL_STD**2 - (1 - t)) / spread * (z_t - t * given)
    return guess + RESIDUAL_STD / spread.sqrt() * residual


def sample_timesteps(
    batch: int,
    modalities: int,
    config: FlowConfig = FlowConfig(),
    generator: torch.Generator | None = None,
    tokens: int | None = None,
) -> Tensor:
    """(B, modalities) timesteps in (0, 1) on the generator's device; one draw per sample unless independent.

    `tokens` is the length of the video sequence, needed where the shift goes by resolution.
    """
    shift = config.shift
    if config.by_resolution:
        if tokens is None:
            raise ValueError("the shift goes by resolution: give the number of video tokens")
        shift *= resolution_shift(tokens)
    columns = modalities if config.independent else 1
    device = generator.device if generator is not None else None
    if config.distribution == "uniform":
        t = torch.rand(batch, columns, generator=generator, device=device)
    elif config.distribution == "logit_normal":
        normal = torch.randn(batch, columns, generator=generator, device=device)
        t = torch.sigmoid(config.logit_mean + config.logit_std * normal)
    else:
        raise ValueError(f"timestep distribution is {config.distribution!r}: use 'uniform' or 'logit_normal'")
    return shift_timesteps(t, shift).expand(batch, modalities)


def shift_timesteps(t: Tensor, shift: float) -> Tensor:
    """Move timesteps towards noise: sigma' = s sigma / (1 + (s - 1) sigma) with sigma = 1 - t (SD3, equation 23)."""
    if shift <= 0:
        raise ValueError(f"timestep shift is {shift}: it must be above 0, and 1 leaves timesteps as they are")
    return t / (shift - (shift - 1) * t)


def resolution_shift(
    tokens: int, base_tokens: int = 256, max_tokens: int = 4096, base_shift: float = 0.5, max_shift: float = 1.15
) -> float:
    """Shift for a sequence length: larger clips need more noise to hide as much (SD3; FLUX's linear exponent)."""
    exponent = base_shift + (max_shift - base_shift) * (tokens - base_tokens) / (max_tokens - base_tokens)
    return math.exp(exponent)


def sigma_of(t: Tensor) -> Tensor:
    """diffusers' noise level of a timestep."""
    return 1 - t


def _over(t: Tensor, latents: Tensor) -> Tensor:
    return t.to(latents).reshape(-1, *[1] * (latents.ndim - 1))
