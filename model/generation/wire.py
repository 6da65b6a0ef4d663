"""Values of a call as bytes and back: one safetensors file whose metadata is JSON. Nothing of it runs code.

What a value may consist of is listed here: the classes below, tensors, and plain values.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from model.conditioning import AudioReference, ImageReference, VideoReference
from model.config import SamplingConfig
from model.generation.prepared import Media, Prepared
from model.generation.steps import BaseLatents
from model.shapes import AudioCodecSpec, ClipShape, VideoCodecSpec

FORMAT = 1
"""Raised where bytes of before can no longer be read."""

_KEY = "call"

_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        AudioCodecSpec,
        AudioReference,
        BaseLatents,
        ClipShape,
        ImageReference,
        Media,
        Prepared,
        SamplingConfig,
        VideoCodecSpec,
        VideoReference,
    )
}
Value = TypeVar("Value")


class WireError(ValueError):
    """Bytes that are not what they should be."""


def to_bytes(value: Prepared | BaseLatents) -> bytes:
    """The value with all its tensors, which come from any device."""
    tensors: dict[str, Tensor] = {}
    described = {"format": FORMAT, "value": _described(value, tensors)}
    return save(tensors, metadata={_KEY: json.dumps(described, allow_nan=False)})  # one key: several have no order


def from_bytes(kind: type[Value], data: bytes) -> Value:
    """What `to_bytes` was given, on the CPU. Raises WireError where the bytes are damaged or of another kind."""
    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        described = json.loads(header["__metadata__"][_KEY])
        if described["format"] != FORMAT:
            raise WireError(f"the bytes are of format {described['format']}, read is {FORMAT}: prepare the call again")
        value = _built(described["value"], tensors)
    except WireError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise WireError(f"the bytes hold no {kind.__name__} ({error!r}): send them again") from error
    if not isinstance(value, kind):
        raise WireError(f"the bytes hold a {type(value).__name__}, not a {kind.__name__}")
    return value


def _described(value: Any, tensors: dict[str, Tensor]) -> Any:
    """As JSON, with tensors put beside it."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        held = {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}
        tensor = value.detach().cpu().contiguous()
        tensors[name] = tensor.clone() if tensor.untyped_storage().data_ptr() in held else tensor
        return {"tensor": name}
    if dataclasses.is_dataclass(value) and type(value).__name__ in _KINDS:
        fields = {f.name: _described(getattr(value, f.name), tensors) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__, "fields": fields}
    if isinstance(value, Mapping):
        return {"map": {str(key): _described(part, tensors) for key, part in value.items()}}
    if isinstance(value, list | tuple):
        return [_described(part, tensors) for part in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be sent: it is no tensor, no plain value and none of {_KINDS}")


def _built(described: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(described, list):
        return tuple(_built(part, tensors) for part in described)
    if not isinstance(described, dict):
        return described
    if "tensor" in described:
        tensor: torch.Tensor = tensors[described["tensor"]]
        return tensor
    if "map" in described:
        return {key: _built(part, tensors) for key, part in described["map"].items()}
    fields = {name: _built(part, tensors) for name, part in described["fields"].items()}
    return _KINDS[described["kind"]](**fields)
