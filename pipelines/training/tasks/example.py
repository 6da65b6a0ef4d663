"""What a task makes of one sample: clean latents, what they are conditioned on, and the words."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from model.conditioning import VideoCondition
from model.config import RefinerConfig
from pipelines.training.latents.sample import LatentKind, LatentSample

Streams = frozenset[str]
"""Branches of a model, or streams of a sample: `video`, `audio`."""


@dataclass(frozen=True)
class Dropout:
    """Shares of samples that learn to do without their text, and without their references (for guidance)."""

    text: float = 0.1
    references: float = 0.1


@dataclass(frozen=True)
class TaskSettings:
    """What a recipe says about all tasks. `captions` are shares of caption forms."""

    captions: Mapping[str, float] = field(default_factory=lambda: {"short": 0.3, "long": 0.3, "structured": 0.4})
    dropout: Dropout = Dropout()
    refiner: RefinerConfig = field(default_factory=RefinerConfig)
    low_noise: float = 0.1
    """Largest share of noise mixed into the low-resolution latents that the refiner is shown: those of the base are
    not perfect either."""


@dataclass(frozen=True)
class Scene:
    """What the samples of one batch share. Latents have no batch dimension."""

    settings: TaskSettings
    streams: Streams
    """Branches that the model has."""
    null_text: Tensor
    """(S, D): the empty prompt."""
    generator: torch.Generator
    black: Tensor | None = None
    """(C, 1, h, w); None where the bucket has no picture."""
    large_black: Tensor | None = None
    """(C, 1, H, W), at the refiner's size."""

    def chance(self, share: float) -> bool:
        """True for `share` of the calls."""
        return torch.rand((), generator=self.generator).item() < share

    def pick(self, count: int) -> int:
        """A number in [0, count)."""
        return int(torch.randint(count, (), generator=self.generator))


@dataclass(frozen=True)
class Example:
    """One training example before noise. Latents have no batch dimension."""

    text: Tensor
    """(S, D)."""
    video: Tensor | None = None
    """(C, T, h, w), clean."""
    condition: VideoCondition | None = None
    """I and M of `video`, with a batch dimension of 1."""
    audio: Tensor | None = None
    """(Ca, L), clean."""
    given: Streams = frozenset()
    """Streams that stand at timestep 1 and take no loss."""
    video_reference: Tensor | None = None
    """(C, N, h, w)."""
    audio_reference: Tensor | None = None
    """(Ca, L')."""
    attends: bool = True
    """Whether the references are attended to."""
    keyframes: Tensor | None = None
    """(C, K, H, W), clean."""
    keyframe_condition: VideoCondition | None = None
    keyframe_indices: tuple[int, ...] = ()


class Described(Protocol):
    """What a task must know of a sample without reading it: an entry of the latent index."""

    kind: LatentKind
    members: frozenset[str]
    """`video`, `audio`, `stills`, `extensions`, `regions`, `reference.<kind>`, `large`, `refined`, `text.<form>`."""


@dataclass(frozen=True)
class Task:
    """One way to learn from a sample. `make` draws from the scene's generator alone.

    `kinds` are the samples it takes, `streams` what it makes or is given of those that the model has, `needs` the
    members a sample must hold beyond these.
    """

    name: str
    make: Callable[[LatentSample, Scene], Example]
    kinds: frozenset[LatentKind]
    streams: Streams
    needs: frozenset[str] = frozenset()
    cross_modal: bool = False
    """Needs both branches: it makes one stream from the other."""
    reads: str | None = None
    """The kind of reference that its texts were read together with."""

    @property
    def kind(self) -> LatentKind:
        """The kind of sample that it is mostly fed."""
        return next(kind for kind in ("pair", "video", "image", "audio") if kind in self.kinds)

    def streams_of(self, model: Streams) -> Streams:
        """The streams it runs on a model with these branches."""
        return self.streams & model

    def usable(self, entry: Described, model: Streams) -> bool:
        """Whether a sample can serve this task on a model with these branches."""
        streams = self.streams_of(model)
        if not streams or (self.cross_modal and streams != self.streams):
            return False
        told = any(_reads(name) == self.reads for name in entry.members if name.startswith("text."))
        return entry.kind in self.kinds and streams | self.needs <= entry.members and told


def _reads(text: str) -> str | None:
    """`image` of `text.long+image`; None of a text read without references."""
    return text.partition("+")[2] or None
