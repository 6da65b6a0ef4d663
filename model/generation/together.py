"""Calls of equal shape sampled as one batch: each keeps its own noise, prompt and media, and is told its own steps."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from model.conditioning import VideoCondition
from model.generation.components import Placement
from model.generation.prepared import Prepared, conditioned
from model.generation.steps import BaseLatents, OnStep, noise_shapes, run_inputs, watched
from model.sampling.denoiser import GuidedVelocity, RunInputs, TextPair, padded
from model.sampling.guidance import Streams
from model.sampling.sampler import Cancelled, StepEnd, draw_noise, sample, timestep_schedule


def shape_key(prepared: Prepared) -> str:
    """The same for calls that `sample_together` takes together: of shapes and settings, not of what they show."""
    told = {
        "clip": [str(prepared.clip), str(prepared.refined)],
        "settings": str(prepared.settings),
        "media": _shapes(prepared.media),
        "references": [_shapes(reference) for reference in prepared.references],
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def sample_together(
    parts: Placement,
    calls: Sequence[Prepared],
    generators: Sequence[torch.Generator],
    on_step_end: Sequence[OnStep | None],
) -> list[BaseLatents | None]:
    """As `sample_base` for each call, up to rounding. None for a call whose callback raised Cancelled.

    Raises Cancelled where all of them were, ValueError where shapes differ, NotFinite where one call makes no numbers.
    """
    if len({shape_key(call) for call in calls}) > 1:
        raise ValueError("these calls differ in shape, settings or kinds of media: sample each alone")
    runs = [run_inputs(parts, call, _conditioning(parts, call)) for call in calls]
    first, run, transformer = calls[0], _joined(runs), parts.part("transformer")
    shapes = {name: (len(calls), *shape[1:]) for name, shape in noise_shapes(first.clip, runs[0]).items()}
    told = _Told([watched(parts, call, "base", back) for call, back in zip(calls, on_step_end, strict=True)])
    with parts.working(transformer):
        made = sample(
            GuidedVelocity(transformer, run, first.scales),
            draw_noise(shapes, generators, parts.device),
            timestep_schedule(first.settings.steps, first.settings.shift),
            first.settings.solver,
            told,
        )
    return [
        None if number in told.gone else BaseLatents({**one.given, **_row(made, number)}, one.prompt, noise.get_state())
        for number, (one, noise) in enumerate(zip(runs, generators, strict=True))
    ]


class _Told:
    """Tells each call of its own row of every step; a call that is cancelled is told no more."""

    def __init__(self, reports: Sequence[Any]) -> None:
        self.reports = reports
        self.gone: set[int] = set()

    def __call__(self, step: StepEnd) -> None:
        for number, report in enumerate(self.reports):
            if number in self.gone:
                continue
            try:
                report(replace(step, latents=_row(step.latents, number), clean=_row(step.clean, number)))
            except Cancelled:
                self.gone.add(number)
        if len(self.gone) == len(self.reports):
            raise Cancelled


def _conditioning(parts: Placement, call: Prepared) -> Any:
    return conditioned(call.media, call.clip, parts.encode_video, parts.encode_audio)


def _row(streams: Streams, number: int) -> Streams:
    return {name: latents[number : number + 1] for name, latents in streams.items()}


def _joined(runs: Sequence[RunInputs]) -> RunInputs:
    """One run of as many samples."""
    first = runs[0]
    return replace(
        first,
        prompt=_texts([run.prompt for run in runs]),
        negative=_texts([run.negative for run in runs]),
        condition=_conditions([run.condition for run in runs]),
        given=_each([run.given for run in runs]),
        video_references=_each([run.video_references for run in runs]),
        audio_references=_each([run.audio_references for run in runs]),
        keyframe_condition=_conditions([run.keyframe_condition for run in runs]),
    )


def _texts(rows: Sequence[TextPair]) -> TextPair:
    longest = max(hidden.shape[1] for hidden, _ in rows)
    return torch.cat([padded(hidden, longest) for hidden, _ in rows]), torch.cat(
        [padded(mask, longest) for _, mask in rows]
    )


def _conditions(conditions: Sequence[VideoCondition | None]) -> VideoCondition | None:
    held = [condition for condition in conditions if condition is not None]
    if not held:
        return None
    return VideoCondition(torch.cat([one.latents for one in held]), torch.cat([one.keep_mask for one in held]))


def _each(given: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([one[name] for one in given]) for name in given[0]}


def _shapes(value: Any) -> Any:
    """The value with shapes in the place of tensors."""
    if isinstance(value, Tensor):
        return [list(value.shape), str(value.dtype)]
    if dataclasses.is_dataclass(value):
        fields = {part.name: _shapes(getattr(value, part.name)) for part in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    return [_shapes(part) for part in value] if isinstance(value, list | tuple) else value
