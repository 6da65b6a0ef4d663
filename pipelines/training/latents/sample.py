"""One sample of the latent cache: all that a task needs of a clip, so that a trainer holds no codec and no encoder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from model.shapes import ClipShape

LatentKind = Literal["image", "video", "audio", "pair"]


@dataclass(frozen=True)
class Region:
    """A region to inpaint, drawn when the cache was made: its pixels were black before anything was encoded."""

    latents: Tensor
    """(C, T, h, w) of the blanked clip."""
    keep_mask: Tensor
    """(1, T, h, w) bool, True = keep."""


@dataclass(frozen=True)
class Extension:
    """The first or last latent frames of a clip, encoded on their own."""

    latents: Tensor
    """(C, k, h, w), k < T."""
    at_end: bool


@dataclass(frozen=True)
class LatentSample:
    """One clip, picture, sound or edit pair. Latents are normalised, float32, without a batch dimension."""

    key: str
    kind: LatentKind
    bucket: str
    shape: ClipShape | None
    """None for sound alone."""
    video: Tensor | None = None
    """(C, T, h, w); of a pair, of the clip after the edit."""
    audio: Tensor | None = None
    """(Ca, L); None where the clip is silent."""
    texts: Mapping[str, Tensor] = field(default_factory=dict)
    """Hidden states (S, D) by form: short, long, structured, or a pair's instruction; and of the fullest form, as
    `structured+image`, read together with a reference."""
    stills: Tensor | None = None
    """(C, T, h, w): the last frame of each latent encoded alone as an image: what a given image at that place is."""
    extensions: tuple[Extension, ...] = ()
    regions: tuple[Region, ...] = ()
    """Of a pair: where the edit is, once, with the clip before the edit outside; empty for edits of everything."""
    references: Mapping[str, Tensor] = field(default_factory=dict)
    """`image` (C, n, h, w), `video` (C, N, h, w), `audio` (Ca, L'): from other times than the clip's own. Of a pair,
    `video` is the whole clip before the edit."""
    large: Tensor | None = None
    """(C, T, H, W): the clip at the refiner's size and the base's frame rate, for keyframes."""
    refined: Tensor | None = None
    """(C, T', H, W): the clip at the refiner's size and frame rate."""
    refined_regions: tuple[Region, ...] = ()
    """At that size and rate, where the sample has `regions`: what is kept while the rest is refined."""
