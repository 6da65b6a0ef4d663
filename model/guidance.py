"""Guidance by what is left out: text, references, the other modality; a scale for each, per generated stream.

    v = full + (s_text - 1)(full - without text) + (s_ref - 1)(full - without references) + (s_av - 1)(full - apart)

The terms are independent differences from the full prediction (as in LTX-2), so any of them can be left out: a scale
of 1 costs no pass. All passes of a step run as rows of one batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

Streams = dict[str, Tensor]
"""Latents, noise or velocities by stream: `video` (B, C, T, h, w), `audio` (B, Ca, L), `keyframes` (B, C, K, H, W)."""


class Pass(Enum):
    """What one row of the batch sees."""

    FULL = "full"
    NO_TEXT = "negative prompt"
    NO_REFERENCES = "without references"
    APART = "without attention between video and audio"


@dataclass(frozen=True)
class GuidanceScales:
    """1 switches a term off. `video` also guides keyframes; `reference` and `cross_modal` act on all streams.

    `rescale` in [0, 1] pulls the standard deviation of the guided velocity back to that of the full prediction, which
    keeps high scales from over-saturating (Lin et al., arXiv 2305.08891, section 3.4).
    """

    video: float = 4.0
    audio: float = 3.0
    reference: float = 1.0
    cross_modal: float = 1.0
    rescale: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"guidance rescale is {self.rescale}: it must lie in [0, 1]")

    def text(self, stream: str) -> float:
        """The text scale of a stream."""
        return self.audio if stream == "audio" else self.video


def guidance_passes(
    scales: GuidanceScales, streams: frozenset[str], *, has_references: bool, joint: bool
) -> tuple[Pass, ...]:
    """The passes that a step needs for the streams it generates; FULL comes first.

    `joint` says whether the model runs both modalities, one of which may be given rather than generated.
    """
    passes = [Pass.FULL]
    if any(scales.text(stream) != 1 for stream in streams):
        passes.append(Pass.NO_TEXT)
    if has_references and scales.reference != 1:
        passes.append(Pass.NO_REFERENCES)
    if joint and scales.cross_modal != 1:
        passes.append(Pass.APART)
    return tuple(passes)


def guide(velocities: Mapping[Pass, Streams], scales: GuidanceScales) -> Streams:
    """Combine the passes of one step into the velocity to follow."""
    return {
        stream: _guide_stream(full, {p: v[stream] for p, v in velocities.items() if p is not Pass.FULL}, scales, stream)
        for stream, full in velocities[Pass.FULL].items()
    }


def rescale_velocity(guided: Tensor, full: Tensor, amount: float) -> Tensor:
    """`guided` with its standard deviation per sample moved by `amount` towards that of `full`."""
    axes = tuple(range(1, guided.ndim))
    ratio = full.std(axes, keepdim=True) / guided.std(axes, keepdim=True).clamp(min=1e-8)
    return guided * torch.lerp(torch.ones_like(ratio), ratio, amount)


def _guide_stream(full: Tensor, without: Mapping[Pass, Tensor], scales: GuidanceScales, stream: str) -> Tensor:
    scale = {Pass.NO_TEXT: scales.text(stream), Pass.NO_REFERENCES: scales.reference, Pass.APART: scales.cross_modal}
    guided = full
    for left_out, velocity in without.items():
        guided = guided + (scale[left_out] - 1) * (full - velocity)
    return rescale_velocity(guided, full, scales.rescale) if scales.rescale else guided
