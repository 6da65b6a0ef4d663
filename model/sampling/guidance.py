"""Guidance by what is left out: text, references, the other modality; a scale for each, per generated stream.

    v = full + (s_text - 1)(full - without text) + (s_ref - 1)(full - without references) + (s_av - 1)(full - apart)

References have one scale together, or one each: then every reference with a scale has its own term, without it alone.
The terms are independent differences from the full prediction (as in LTX-2), so any of them can be left out: a scale
of 1 costs no pass.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import ReferenceScale

Streams = dict[str, Tensor]
"""Latents, noise or velocities by stream: `video` (B, C, T, h, w), `audio` (B, Ca, L), `keyframes` (B, C, K, H, W)."""


@dataclass(frozen=True)
class Pass:
    """One prediction of a step, by what it goes without."""

    text: bool = True
    """False reads the negative prompt."""
    cross_modal: bool = True
    """False keeps video and audio apart."""
    without: tuple[str, ...] = ()
    """Tags of references that it is not shown."""


FULL = Pass()
NO_TEXT = Pass(text=False)
APART = Pass(cross_modal=False)


@dataclass(frozen=True)
class GuidanceScales:
    """1 switches a term off. `video` also guides keyframes; `reference` and `cross_modal` act on all streams.

    `rescale` in [0, 1] pulls the standard deviation of the guided velocity back to that of the full prediction, which
    keeps high scales from over-saturating (Lin et al., arXiv 2305.08891, section 3.4).
    """

    video: float = 4.0
    audio: float = 3.0
    reference: ReferenceScale = 1.0
    cross_modal: float = 1.0
    rescale: float = 0.0

    def __post_init__(self) -> None:
        by_tag = self.reference if isinstance(self.reference, Mapping) else {"": self.reference}
        if not all(map(math.isfinite, (self.video, self.audio, self.cross_modal, *by_tag.values()))):
            raise ValueError(f"guidance scales must be finite numbers, not {self}")
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"guidance rescale is {self.rescale}: it must lie in [0, 1]")

    def text(self, stream: str) -> float:
        """The text scale of a stream."""
        return self.audio if stream == "audio" else self.video

    def of(self, left_out: Pass, stream: str) -> float:
        """The scale of the term that a pass other than FULL is for."""
        if not left_out.text:
            return self.text(stream)
        if not left_out.cross_modal:
            return self.cross_modal
        return self.reference[left_out.without[0]] if isinstance(self.reference, Mapping) else self.reference


def guidance_passes(
    scales: GuidanceScales, streams: frozenset[str], *, references: Sequence[str], joint: bool
) -> tuple[Pass, ...]:
    """The passes that a step needs for the streams it generates; FULL comes first.

    `references` are the tags of those there are. `joint` says whether the model runs both modalities, one of which may
    be given rather than generated.
    """
    passes = [FULL]
    if any(scales.text(stream) != 1 for stream in streams):
        passes.append(NO_TEXT)
    passes += [Pass(without=tags) for tags in _left_out_together(scales.reference, references)]
    if joint and scales.cross_modal != 1:
        passes.append(APART)
    return tuple(passes)


def guide(velocities: Mapping[Pass, Streams], scales: GuidanceScales) -> Streams:
    """Combine the passes of one step into the velocity to follow."""
    return {
        stream: _guide_stream(full, {p: v[stream] for p, v in velocities.items() if p != FULL}, scales, stream)
        for stream, full in velocities[FULL].items()
    }


def rescale_velocity(guided: Tensor, full: Tensor, amount: float) -> Tensor:
    """`guided` with its standard deviation per sample moved by `amount` towards that of `full`."""
    axes = tuple(range(1, guided.ndim))
    ratio = full.std(axes, keepdim=True) / guided.std(axes, keepdim=True).clamp(min=1e-8)
    return guided * torch.lerp(torch.ones_like(ratio), ratio, amount)


def _left_out_together(scale: ReferenceScale, references: Sequence[str]) -> list[tuple[str, ...]]:
    """The references that each term on references leaves out."""
    if not isinstance(scale, Mapping):
        return [tuple(references)] if references and scale != 1 else []
    unknown = sorted(scale.keys() - set(references))
    if unknown:
        raise ValueError(
            f"reference guidance names {', '.join(unknown)}, but the references are {', '.join(references) or 'none'}"
        )
    return [(tag,) for tag in references if scale.get(tag, 1) != 1]


def _guide_stream(full: Tensor, without: Mapping[Pass, Tensor], scales: GuidanceScales, stream: str) -> Tensor:
    guided = full
    for left_out, velocity in without.items():
        guided = guided + (scales.of(left_out, stream) - 1) * (full - velocity)
    return rescale_velocity(guided, full, scales.rescale) if scales.rescale else guided
