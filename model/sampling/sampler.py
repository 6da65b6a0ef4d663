"""From noise (t = 0) to latents (t = 1) along the velocity field: Euler, Heun, UniPC."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from model.config import Solver
from model.sampling.flow import clean_from_velocity, shift_timesteps, sigma_of
from model.sampling.guidance import Streams

Velocity = Callable[[Streams, float], Streams]
"""The guided velocity of all generated streams at one timestep."""


@dataclass(frozen=True)
class StepEnd:
    """The state after step `index` of `count`, given to callbacks.

    `clean` is what the latents would become along the last velocity: it gives a preview at any step.
    """

    index: int
    count: int
    t: float
    latents: Streams
    clean: Streams

    @property
    def progress(self) -> float:
        """Share of the steps done, in (0, 1]."""
        return (self.index + 1) / self.count


class Cancelled(Exception):
    """Raise it in a step callback to stop a generation; it reaches the caller unchanged."""


def timestep_schedule(steps: int, shift: float = 1.0) -> Tensor:
    """steps + 1 rising timesteps from 0 (noise) to 1 (data), float64; `shift` above 1 spends more steps on noise."""
    if steps < 1:
        raise ValueError(f"{steps} sampling steps: at least 1 is needed")
    return shift_timesteps(torch.linspace(0, 1, steps + 1, dtype=torch.float64), shift)


def draw_noise(
    shapes: Mapping[str, Sequence[int]],
    generators: torch.Generator | Sequence[torch.Generator],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Streams:
    """Unit Gaussian noise of the given (B, ...) shapes, drawn where each generator lives and then moved.

    With one generator per sample, a sample's noise does not depend on its neighbours in the batch.
    """
    streams: Streams = {}
    for name, shape in shapes.items():
        if isinstance(generators, torch.Generator):
            noise = torch.randn(tuple(shape), generator=generators, device=generators.device)
        else:
            if len(generators) != shape[0]:
                raise ValueError(f"{len(generators)} generators for a batch of {shape[0]}: give one, or one per sample")
            noise = torch.cat([torch.randn((1, *shape[1:]), generator=g, device=g.device) for g in generators])
        streams[name] = noise.to(device=device, dtype=dtype)
    return streams


@torch.no_grad()
def sample(
    velocity: Velocity,
    noise: Streams,
    schedule: Tensor,
    solver: Solver = "euler",
    on_step_end: Callable[[StepEnd], None] | None = None,
) -> Streams:
    """Integrate dz/dt = velocity over `schedule` (rising timesteps), starting from `noise`."""
    if solver not in _STEPPERS:
        raise ValueError(f"solver is {solver!r}: use one of {', '.join(map(repr, _STEPPERS))}")
    times = [float(t) for t in schedule]
    step = _STEPPERS[solver](velocity, schedule, list(noise))
    latents = dict(noise)
    for index, (t, following) in enumerate(pairwise(times)):
        before = latents
        v = velocity(before, t)
        latents = step(before, v, t, following)
        if on_step_end is not None:
            clean = {name: clean_from_velocity(v[name], before[name], torch.tensor([t])) for name in before}
            on_step_end(StepEnd(index, len(times) - 1, following, latents, clean))
    return latents


Step = Callable[[Streams, Streams, float, float], Streams]
"""(latents, their velocity, t, next t) -> latents at the next t."""


def _euler(velocity: Velocity, schedule: Tensor, streams: Sequence[str]) -> Step:
    return _advance


def _heun(velocity: Velocity, schedule: Tensor, streams: Sequence[str]) -> Step:
    """Second order: average the velocities at both ends. The last step is Euler's, for t = 1 is never evaluated."""

    def step(latents: Streams, v: Streams, t: float, following: float) -> Streams:
        ahead = _advance(latents, v, t, following)
        if following >= 1:
            return ahead
        w = velocity(ahead, following)
        return _advance(latents, {name: (v[name] + w[name]) / 2 for name in v}, t, following)

    return step


def _unipc(velocity: Velocity, schedule: Tensor, streams: Sequence[str]) -> Step:
    """diffusers' UniPC, one scheduler per stream. This is where its conventions are met: sigma = 1 - t, v -> -v."""
    from diffusers import UniPCMultistepScheduler

    def scheduler() -> Any:
        made: Any = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0)
        made.set_timesteps(sigmas=sigma_of(schedule[:-1]).numpy().copy())
        made.set_begin_index(0)
        return made

    schedulers = {name: scheduler() for name in streams}

    def step(latents: Streams, v: Streams, t: float, following: float) -> Streams:
        moved: Streams = {}
        for name, unipc in schedulers.items():
            timestep = unipc.timesteps[unipc.step_index or 0]
            moved[name] = unipc.step(-v[name], timestep, latents[name], return_dict=False)[0]
        return moved

    return step


def _advance(latents: Streams, velocity: Streams, t: float, following: float) -> Streams:
    return {name: z + (following - t) * velocity[name] for name, z in latents.items()}


_STEPPERS: dict[str, Callable[[Velocity, Tensor, Sequence[str]], Step]] = {
    "euler": _euler,
    "heun": _heun,
    "unipc": _unipc,
}
