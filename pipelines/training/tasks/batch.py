"""One micro-batch: examples of one bucket, one timestep per sample for all streams, noise, and everything stacked."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from model.conditioning import VideoCondition
from model.config import TransformerConfig
from model.costs.flops import Workload, forward_flops
from model.network.inputs import AUDIO, VIDEO, JointInputs
from model.network.keyframes import KeyframeInput
from model.sampling.denoiser import stack_text
from model.sampling.flow import FlowConfig, noised, sample_timesteps, velocity_target
from pipelines.training.tasks.example import Example


@dataclass(frozen=True)
class Target:
    """What is learned of one stream: its velocity z_0 - eps, shaped as the noisy latents."""

    velocity: Tensor
    weight: Tensor
    """Broadcasts over `velocity`: 1 where latents are generated, less where they are kept."""


@dataclass(frozen=True)
class TrainingBatch:
    """B samples of one task and one bucket, with all randomness drawn. Implements `skyreels.training`'s Batch."""

    task: str
    inputs: JointInputs
    targets: Mapping[str, Target]
    """By stream: video, audio, keyframes. Streams that are given rather than generated have none."""
    keys: Sequence[str]
    skipped: Sequence[str] = ()
    tokens: int = 0
    """Media tokens of all samples, references included."""
    flops: float = 0.0

    def to(self, device: torch.device) -> "TrainingBatch":
        """The same with every tensor on `device`."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "TrainingBatch":
        """The same in pinned memory, from where a GPU takes it without making anybody wait."""
        return self._with(torch.Tensor.pin_memory)

    def _with(self, change: Callable[[Tensor], Tensor]) -> "TrainingBatch":
        inputs = replace(
            self.inputs, **{f.name: _changed(getattr(self.inputs, f.name), change) for f in fields(self.inputs)}
        )
        targets = {
            stream: Target(change(target.velocity), change(target.weight)) for stream, target in self.targets.items()
        }
        return replace(self, inputs=inputs, targets=targets)


KEPT_WEIGHT = 0.1
"""Of kept latents in the loss, beside 1 for generated ones. They are integrated too while sampling, so the model must
know their velocity; but it stands in its input, and a tenth is enough to learn to copy it."""


@dataclass(frozen=True)
class Collation:
    """What a stage says about every batch."""

    transformer: TransformerConfig
    flow: FlowConfig = field(default_factory=FlowConfig)
    sparsity: float = 0.0
    text_multiple: int = 1
    """Texts are filled up to a multiple of this many tokens, so that batches come in few shapes."""


def collate(
    task: str,
    examples: Sequence[Example],
    keys: Sequence[str],
    generator: torch.Generator,
    settings: Collation,
    audio_time_scale: float = 0.0,
) -> TrainingBatch:
    """Noise and stack examples of equal shapes, all of one task.

    Clips and sounds that are references are cut to the shortest of the batch; of pictures, each is a reference of its
    own, and those that a sample lacks are not attended to.
    """
    first, config = examples[0], settings.transformer
    clean = _clean(examples)
    conditions = {
        "video": _conditions([example.condition for example in examples]),
        "keyframes": _conditions([example.keyframe_condition for example in examples]),
    }
    tokens = _grid(clean["video"], config) if "video" in clean else clean["audio"].shape[2:]
    timesteps = sample_timesteps(len(examples), 2, settings.flow, generator, math.prod(tokens)).clone()
    noisy: dict[str, Tensor] = {}
    targets: dict[str, Target] = {}
    for stream, latents in clean.items():
        column = AUDIO if stream == "audio" else VIDEO
        if stream in first.given:
            timesteps[:, column] = 1
            noisy[stream] = latents
        else:
            noise = torch.randn(latents.shape, generator=generator)
            noisy[stream] = noised(latents, noise, timesteps[:, column])
            targets[stream] = Target(velocity_target(latents, noise), _weight(conditions.get(stream), latents))
    for stream, condition in conditions.items():
        if condition is not None:
            noisy[stream] = condition.channels(noisy[stream])
    seen, rows = _pictures(examples) if first.pictures else (_references([e.video_reference for e in examples]), None)
    heard = _references([example.audio_reference for example in examples])
    text, mask = _texts(examples, settings.text_multiple)
    inputs = JointInputs(
        text=text,
        timesteps=timesteps,
        text_mask=mask,
        video=noisy.get("video"),
        audio=noisy.get("audio"),
        audio_time_scale=audio_time_scale,
        video_references=seen,
        audio_references=heard,
        keyframes=KeyframeInput(noisy["keyframes"], first.keyframe_indices) if "keyframes" in noisy else None,
        sparsity=settings.sparsity,
        reference_rows=_rows(examples, rows, len(seen) + len(heard)),
    )
    work = _workload(inputs, config)
    return TrainingBatch(
        task,
        inputs,
        targets,
        tuple(keys),
        tokens=len(examples) * (work.video_tokens + work.audio_tokens),
        flops=float(len(examples) * forward_flops(config, work)),
    )


def _texts(examples: Sequence[Example], multiple: int) -> tuple[Tensor, Tensor | None]:
    """As `stack_text` has them."""
    rows = [(example.text[None], torch.ones(1, len(example.text), dtype=torch.bool)) for example in examples]
    return stack_text(rows, multiple)


def _clean(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Clean latents by stream, stacked."""
    parts = {name: [getattr(example, name) for example in examples] for name in ("video", "audio", "keyframes")}
    return {name: torch.stack(latents) for name, latents in parts.items() if latents[0] is not None}


def _conditions(conditions: Sequence[VideoCondition | None]) -> VideoCondition | None:
    there = [condition for condition in conditions if condition is not None]
    if not there:
        return None
    return VideoCondition(torch.cat([c.latents for c in there]), torch.cat([c.keep_mask for c in there]))


def _weight(condition: VideoCondition | None, like: Tensor) -> Tensor:
    if condition is None:
        return like.new_ones(len(like), *[1] * (like.ndim - 1))
    return 1 - (1 - KEPT_WEIGHT) * condition.keep_mask


def _references(references: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """One tensor (B, C, N, ...), or none. A prefix of a causal codec's latents is itself a clip's."""
    there = [reference for reference in references if reference is not None]
    if not there:
        return ()
    shortest = min(reference.shape[1] for reference in there)
    return (torch.stack([reference[:, :shortest] for reference in there]),)


def _pictures(examples: Sequence[Example]) -> tuple[tuple[Tensor, ...], Tensor]:
    """As many references (B, C, 1, h, w) as any sample has pictures, and (B, N) which of them each sample has.

    What is missing comes first: a sample's pictures then stand at the times that they have where there are no others.
    """
    held = [example.video_reference for example in examples if example.video_reference is not None]
    most = max(pictures.shape[1] for pictures in held)
    padded = [torch.cat((p.new_zeros(p.shape[0], most - p.shape[1], *p.shape[2:]), p), 1) for p in held]
    there = torch.tensor([[place >= most - pictures.shape[1] for place in range(most)] for pictures in held])
    return torch.stack(padded).split(1, 2), there


def _rows(examples: Sequence[Example], pictures: Tensor | None, references: int) -> Tensor | None:
    """(B, references): which of them a sample attends to."""
    if not references:
        return None
    attends = torch.tensor([[example.attends] for example in examples]).expand(-1, references).clone()
    if pictures is not None:
        attends[:, : pictures.shape[1]] &= pictures
    return attends


def _workload(inputs: JointInputs, config: TransformerConfig) -> Workload:
    """Tokens of one sample."""
    return Workload(
        text=inputs.text.shape[1],
        grid=None if inputs.video is None else _grid(inputs.video, config),
        keyframes=0 if inputs.keyframes is None else math.prod(_grid(inputs.keyframes.latents, config)),
        video_references=sum(math.prod(_grid(reference, config)) for reference in inputs.video_references),
        audio=0 if inputs.audio is None else inputs.audio.shape[2],
        audio_references=sum(reference.shape[2] for reference in inputs.audio_references),
        sparsity=inputs.sparsity,
    )


def _grid(latents: Tensor, config: TransformerConfig) -> tuple[int, int, int]:
    """(T, H, W) in tokens of latents (B, C, T, h, w)."""
    time, height, width = latents.shape[2:]
    return time, height // config.patch[1], width // config.patch[2]


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`value` with `change` made to every tensor in it."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        return type(value)(_changed(item, change) for item in value)
    if isinstance(value, KeyframeInput):
        return replace(value, latents=change(value.latents))
    return value
