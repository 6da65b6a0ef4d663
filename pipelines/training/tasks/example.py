"""What a task makes of one sample: clean latents, what they are conditioned on, and the words."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from model.conditioning import VideoCondition
from model.config import RefinerConfig
from pipelines.training.latents.sample import LatentKind, LatentSample

Streams = frozenset[str]
"""Branches of a model, or streams of a sample: `video`, `audio`."""

Need = Literal["stills", "extensions", "regions", "before", "refined"]
"""What a task needs of a sample beside its streams; `before` is the clip before an edit."""

ORDER: tuple[LatentKind, ...] = ("pair", "video", "image", "audio")
"""Kinds of samples, those with the most in them first."""


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
    keyframes_from_image: float = 0.2
    """Share of keyframe samples that start from a given image, small and large."""
    low_noise: float = 0.1
    """Largest share of noise mixed into the low-resolution latents that the refiner is shown: those of the base are
    not perfect either."""


@dataclass(frozen=True)
class TaskContext:
    """What the samples of one batch share. Latents have no batch dimension."""

    settings: TaskSettings
    streams: Streams
    """Branches that the model has."""
    null_text: Tensor
    """(S, D): the empty prompt."""
    generator: torch.Generator
    form: float = 0.0
    """In [0, 1): which form of captions all of them read."""
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
    pictures: bool = False
    """Whether the latents of `video_reference` are pictures apart, of which other samples may have more or fewer."""
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

    @property
    def kind(self) -> LatentKind: ...

    @property
    def has_audio(self) -> bool: ...

    @property
    def texts(self) -> Collection[str]: ...

    @property
    def references(self) -> Collection[str]: ...

    @property
    def extensions(self) -> int: ...

    @property
    def regions(self) -> int: ...

    @property
    def refined(self) -> bool: ...


@dataclass(frozen=True)
class TrainingTask:
    """One way to learn from a sample. `make` draws from the context's generator alone.

    `kinds` are the samples it takes, `streams` what it makes or is given of those that the model has.
    """

    name: str
    make: Callable[[LatentSample, TaskContext], Example]
    kinds: frozenset[LatentKind]
    streams: Streams
    needs: frozenset[Need] = frozenset()
    reads: str | None = None
    """The kind of reference that it needs, or kinds joined by `_`, and that its texts were read together with."""
    cross_modal: bool = False
    """Needs both branches: it makes one stream from the other, or both at once."""

    @property
    def kind(self) -> LatentKind:
        """The kind of sample that it is mostly fed."""
        return next(kind for kind in ORDER if kind in self.kinds)

    @property
    def reference_kinds(self) -> tuple[str, ...]:
        """The kinds of references that it needs."""
        return () if self.reads is None else tuple(self.reads.split("_"))

    def streams_of(self, model: Streams) -> Streams:
        """The streams it runs on a model with these branches."""
        return self.streams & model

    def suits(self, model: Streams) -> bool:
        """Whether a model with these branches can learn it: a task of sounds makes sound, any other a picture, and one
        that is cross-modal both."""
        made = self.streams if self.cross_modal else {"audio"} if "audio" in self.kinds else {"video"}
        return made <= model

    def usable(self, entry: Described, model: Streams) -> bool:
        """Whether a sample can serve this task on a model with these branches."""
        if not self.suits(model) or entry.kind not in self.kinds:
            return False
        held = {
            "video": entry.kind != "audio",
            "audio": entry.has_audio,
            "stills": entry.kind == "video",
            "extensions": entry.extensions > 0,
            "regions": entry.regions > 0,
            "before": "video" in entry.references,
            "refined": entry.refined,
        }
        if self.reads is None:
            told = any("+" not in text for text in entry.texts)
        else:
            read = any(text.endswith(f"+{self.reads}") for text in entry.texts)
            told = read and set(self.reference_kinds) <= set(entry.references)
        return told and all(held[name] for name in self.streams_of(model) | self.needs)


def caption(sample: LatentSample, context: TaskContext) -> Tensor:
    """(S, D): a caption in the batch's form, or the empty prompt for the share that is dropped.

    The form is drawn once for a batch, by the recipe's shares: texts of unequal length would be padding. Forms that the
    sample lacks leave their share to the others. Raises ValueError where it has none of them.
    """
    return _told(sample, context.settings.captions, context)


def caption_read_with(sample: LatentSample, kind: str, context: TaskContext) -> Tensor:
    """The same for a caption that was read together with a reference of that kind, in whatever form it has."""
    return _told(sample, {name: 1.0 for name in sample.texts if name.endswith(f"+{kind}")}, context)


def instruction(sample: LatentSample, context: TaskContext) -> Tensor:
    """(S, D): what to change, in words alone; or the empty prompt."""
    return _told(sample, {"instruction": 1.0}, context)


def _told(sample: LatentSample, shares: Mapping[str, float], context: TaskContext) -> Tensor:
    held = {name: share for name, share in shares.items() if share > 0 and name in sample.texts}
    if not held:
        found = ", ".join(sorted(sample.texts)) or "no texts"
        raise ValueError(f"{sample.key} has {found} but none of {', '.join(shares) or 'those read with its reference'}")
    if context.chance(context.settings.dropout.text):
        return context.null_text
    edges = torch.tensor(list(held.values()), dtype=torch.float64).cumsum(0)
    drawn = int(torch.searchsorted(edges, context.form * edges[-1], right=True))
    return sample.texts[list(held)[min(drawn, len(held) - 1)]]
