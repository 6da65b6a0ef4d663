"""One sample of the latent cache: all that a task needs of a clip, so that a trainer holds no codec and no encoder.

And its bytes in a shard.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from safetensors.torch import load, save
from torch import Tensor

from model.config import from_mapping
from model.shapes import AudioCodecSpec, ClipShape, VideoCodecSpec

# Extension, LatentSample, Region
from skyreels.commits import stable_json

LatentKind = Literal["image", "video", "audio", "pair"]
IMAGE_AND_AUDIO = "image_audio"
"""Of texts that were read with references of both kinds."""


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
    """Hidden states (S, D) by form: short, long, structured, or a pair's instruction; and of one of them, as
    `short+image`, read together with a reference."""
    stills: Tensor | None = None
    """(C, T, h, w): the last frame of each latent encoded alone as an image: what a given image at that place is."""
    extensions: tuple[Extension, ...] = ()
    regions: tuple[Region, ...] = ()
    """Of a pair: where the edit is, once, with the clip before the edit outside; empty for edits of everything."""
    references: Mapping[str, Tensor] = field(default_factory=dict)
    """From other times than the clip's own: `image` (C, n, h, w), of one tag or with a tag each, `video` (C, N, h, w),
    `audio` (Ca, L'). Of a pair, `video` is the whole clip before the edit."""
    large: Tensor | None = None
    """(C, T, H, W): the clip at the refiner's size and the base's frame rate, for keyframes."""
    refined: Tensor | None = None
    """(C, T', H, W): the clip at the refiner's size and frame rate."""
    enlarged: Tensor | None = None
    """(C, T', H, W): `video` decoded, enlarged and encoded again, where the refiner is shown that."""
    refined_regions: tuple[Region, ...] = ()
    """At that size and rate, where the sample has `regions`: what is kept while the rest is refined."""


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_PLAIN = ("video", "audio", "stills", "large", "refined", "enlarged")


def pack(sample: LatentSample, dtype: str) -> dict[str, bytes]:
    """File contents by extension; latents and embeddings stored as `dtype`, masks as bytes. The same sample gives
    the same bytes."""
    tensors = {name: getattr(sample, name) for name in _PLAIN if getattr(sample, name) is not None}
    same = _same(sample.texts)
    tensors |= {f"text/{form}": hidden for form, hidden in sample.texts.items() if form not in same}
    tensors |= {f"reference/{kind}": latents for kind, latents in sample.references.items()}
    tensors |= {f"extension/{place}": extension.latents for place, extension in enumerate(sample.extensions)}
    for prefix, regions in (("", sample.regions), ("refined_", sample.refined_regions)):
        tensors |= {f"{prefix}region/{place}": region.latents for place, region in enumerate(regions)}
        tensors |= {f"{prefix}keep_mask/{place}": region.keep_mask.byte() for place, region in enumerate(regions)}
    stored = {
        name: (tensor if tensor.dtype == torch.uint8 else tensor.to(DTYPES[dtype])).cpu().contiguous()
        for name, tensor in tensors.items()
    }
    described = {
        "key": sample.key,
        "kind": sample.kind,
        "bucket": sample.bucket,
        "shape": None if sample.shape is None else asdict(sample.shape),
        "extensions_at_end": [extension.at_end for extension in sample.extensions],
        **({"same_texts": same} if same else {}),
    }
    return {"safetensors": save(stored), "json": stable_json(described)}


def unpack(files: Mapping[str, bytes]) -> LatentSample:
    """What was packed, latents and embeddings in float32. Takes what `webdataset` yields as well."""
    described = json.loads(files["json"])
    tensors = load(files["safetensors"])
    floats = {name: tensor.float() for name, tensor in tensors.items() if tensor.dtype != torch.uint8}
    at_end = described["extensions_at_end"]
    texts = _below(floats, "text/")
    texts |= {form: texts[other] for form, other in described.get("same_texts", {}).items()}
    return LatentSample(
        key=described["key"],
        kind=described["kind"],
        bucket=described["bucket"],
        shape=_shape(described["shape"]),
        texts=texts,
        references=_below(floats, "reference/"),
        extensions=tuple(map(Extension, _numbered(floats, "extension"), at_end)),
        regions=tuple(_regions(tensors, "")),
        refined_regions=tuple(_regions(tensors, "refined_")),
        **{name: floats.get(name) for name in _PLAIN},
    )


def _same(texts: Mapping[str, Tensor]) -> dict[str, str]:
    """Forms whose words are those of another, which is stored in their place, by that other."""
    same: dict[str, str] = {}
    for place, form in enumerate(forms := sorted(texts)):
        earlier = (other for other in forms[:place] if other not in same and torch.equal(texts[other], texts[form]))
        if (other := next(earlier, None)) is not None:
            same[form] = other
    return same


def _shape(values: dict[str, Any] | None) -> ClipShape | None:
    if values is None:
        return None
    video = from_mapping(VideoCodecSpec, values.pop("video"), "shape.video")
    audio = values.pop("audio")
    return ClipShape(**values, video=video, audio=audio and from_mapping(AudioCodecSpec, audio, "shape.audio"))


def _regions(tensors: Mapping[str, Tensor], prefix: str) -> Iterator[Region]:
    latents, masks = (_numbered(tensors, f"{prefix}{name}") for name in ("region", "keep_mask"))
    for region, mask in zip(latents, masks, strict=True):
        yield Region(region.float(), mask.bool())


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in sorted(tensors.items()) if name.startswith(prefix)}


def _numbered(tensors: Mapping[str, Tensor], prefix: str) -> list[Tensor]:
    found = _below(tensors, f"{prefix}/")
    return [found[str(place)] for place in range(len(found))]
