"""Low-rank adapters, as peft saves them, merged into a transformer: W + scale * alpha / r * B A (arXiv 2106.09685).

adapter_config.json
adapter_model.safetensors     base_model.model.<layer>.lora_A.weight (r, in), ….lora_B.weight (out, r)

A merged model costs nothing more to run than its base. Nothing of peft is imported: a machine that only samples does
without it.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from model.checksums import CheckpointError, check, read_json

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
BASE_IDENTITY = "base_identity"
"""Key of the safetensors metadata that holds `checkpoint.saved_identity` of the transformer that was fine-tuned."""

_UNSUPPORTED: Mapping[str, Any] = {
    "use_dora": False,
    "bias": "none",
    "fan_in_fan_out": False,
    "lora_bias": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
}


@dataclass(frozen=True)
class Lora:
    """A (r, in) and B (out, r) by layer name; the layer's update is `scaling` * B A."""

    layers: Mapping[str, tuple[Tensor, Tensor]]
    scaling: float
    base_identity: str | None


def load_lora(directory: str | Path) -> Lora:
    """Read an adapter folder. Raises CheckpointError naming what is missing or not supported."""
    directory = Path(directory)
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (directory / name).is_file():
            raise CheckpointError(f"{directory / name} does not exist: {directory} is no adapter folder")
    check(directory)
    config = read_json(directory / ADAPTER_CONFIG)
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"{directory} holds a {config.get('peft_type')} adapter: only LORA can be merged")
    odd = [key for key, plain in _UNSUPPORTED.items() if config.get(key, plain) not in (plain, None)]
    if odd:
        raise CheckpointError(f"{directory / ADAPTER_CONFIG} sets {', '.join(odd)}: only plain LoRA can be merged")
    tensors, metadata = _read(directory / ADAPTER_WEIGHTS)
    rank = config["r"]
    scaling = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return Lora(_pairs(tensors, directory), scaling, metadata.get(BASE_IDENTITY))


@torch.no_grad()
def merge_lora(model: nn.Module, lora: Lora, scale: float = 1.0) -> None:
    """Add `scale` times the adapter to the weights of `model`, in float32 and rounded once.

    Raises CheckpointError, before anything is changed, where layers are missing or of another shape.
    """
    modules = dict(model.named_modules())
    problems = []
    for name, (down, up) in lora.layers.items():
        layer = modules.get(name)
        if not isinstance(layer, nn.Linear):
            problems.append(f"{name} is missing")
        elif layer.weight.shape != (up.shape[0], down.shape[1]):
            problems.append(f"{name} is {tuple(layer.weight.shape)}, not {(up.shape[0], down.shape[1])}")
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"the adapter does not fit this model: {'; '.join(problems[:3])}{more}. Use the model it was trained on"
        )
    for name, (down, up) in lora.layers.items():
        weight = modules[name].weight
        assert isinstance(weight, Tensor)
        update = (up.float() @ down.float()).to(weight.device)
        weight.copy_(weight.float() + scale * lora.scaling * update)


@contextmanager
def merged(model: nn.Module, lora: Lora, scale: float = 1.0) -> Iterator[None]:
    """The model with the adapter inside the block; after it, its weights are the bytes that they were."""
    modules = dict(model.named_modules())
    before = {name: modules[name].weight.detach().clone() for name in lora.layers if name in modules}
    merge_lora(model, lora, scale)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in before.items():
                modules[name].weight.copy_(weight)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
            return tensors, file.metadata() or {}
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}): copy the adapter again") from error


def _pairs(tensors: Mapping[str, Tensor], directory: Path) -> dict[str, tuple[Tensor, Tensor]]:
    downs, ups = (
        {key.removeprefix(PREFIX).removesuffix(end): tensor for key, tensor in tensors.items() if key.endswith(end)}
        for end in (".lora_A.weight", ".lora_B.weight")
    )
    if not downs or downs.keys() != ups.keys() or len(tensors) != 2 * len(downs):
        raise CheckpointError(f"{directory / ADAPTER_WEIGHTS} does not hold one lora_A and one lora_B per layer")
    return {name: (down, ups[name]) for name, down in downs.items()}
