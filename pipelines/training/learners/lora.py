"""Low-rank adapters (arXiv 2106.09685) on the attention and MLP projections of a trained transformer, by peft.

A stage as it is, with its network wrapped: the base stays as it was exported, A and B are all that trains. What comes
out is a folder that peft, and `Generator.from_pretrained(..., lora=folder)`, load.
"""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model  # here, and not in `build`: zero.Init patches what peft imports
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor, nn

from model.checkpoint import saved_identity
from model.checksums import seal
from model.costs.memory import meta_model
from model.network.lora import ADAPTER_WEIGHTS, BASE_IDENTITY, PREFIX
from pipelines.training.learners.network import network_config
from pipelines.training.learners.transformer import TransformerStage
from pipelines.training.learners.warm_start import StartWeights
from pipelines.training.stages.export import published
from pipelines.training.tasks.batch import TrainingBatch
from skyreels.config import Config
from skyreels.training.trainable import Slot, StepLoss

TARGETS = r"layers\.\d+\..*(attention\.(qkv|q|kv|out)|mlp\.[02])"
"""Layers that are adapted: of both branches and of the attention between them, for media and text."""
_ADAPTER = "default"  # peft's name for the only one


class LoraSettings(Config):
    """The update of a layer is `alpha / rank` * B A."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(16.0, gt=0)


@dataclass
class LoraStage:
    """Implements `skyreels.training.trainable.Trainable`: `stage`, with adapters that train in place of its weights."""

    stage: TransformerStage
    settings: LoraSettings

    @property
    def slots(self) -> int:
        return self.stage.slots

    def build(self) -> nn.Module:
        """A and B hold no values yet: under `zero.Init` they are sharded at once, and peft could not fill them."""
        return inject_adapter_in_model(lora_config(self.settings), self.stage.build(), _ADAPTER)

    def initial_weights(self) -> Mapping[str, Tensor]:
        """The base's by the names they have in the wrapped network, random A and zero B: at first, the base itself."""
        assembler = self.stage.assembler
        shapes = adapter_shapes(meta_model(network_config(assembler.preset, assembler.branches)), self.settings.rank)
        return _Wrapped(self.stage.initial_weights(), shapes, self.stage.seed)

    def batch(self, slot: Slot) -> TrainingBatch:
        return self.stage.batch(slot)

    def loss(self, module: nn.Module, batch: TrainingBatch) -> StepLoss:
        return self.stage.loss(module, batch)

    def held_out(self) -> list[TrainingBatch]:
        return self.stage.held_out()

    def write_samples(self, module: nn.Module, step: int, folder: Path | None) -> None:
        self.stage.write_samples(module, step, folder)


def save_adapter(weights: Mapping[str, Tensor], settings: LoraSettings, base: str | Path, out: str | Path) -> Path:
    """Write the adapter among the trained `weights` as peft lays it out; `base` is the generator's folder.

    The file names the transformer that it was trained on, and is only merged into that one.
    """
    names = [name for name in weights if ".lora_" in name]
    tensors = {PREFIX + name.replace(f".{_ADAPTER}.", "."): weights[name].contiguous() for name in names}
    config = lora_config(settings)
    config.base_model_name_or_path = str(base)
    config.inference_mode = True
    with published(Path(out)) as folder:
        identity = saved_identity(Path(base) / "transformer")
        save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt", BASE_IDENTITY: identity})
        config.save_pretrained(str(folder))
        seal(folder)
    return Path(out)


def lora_config(settings: LoraSettings) -> LoraConfig:
    """As peft has it."""
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # a whole number is not needed: it only scales
        target_modules=TARGETS,
        lora_dropout=0.0,
        bias="none",
        init_lora_weights=False,
    )


def adapter_shapes(model: nn.Module, rank: int) -> dict[str, tuple[int, int]]:
    """Of A and B by parameter name, for every layer of `model` that is adapted."""
    shapes: dict[str, tuple[int, int]] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and re.fullmatch(TARGETS, name):
            shapes[f"{name}.lora_A.{_ADAPTER}.weight"] = (rank, layer.in_features)
            shapes[f"{name}.lora_B.{_ADAPTER}.weight"] = (layer.out_features, rank)
    return shapes


class _Wrapped(Mapping[str, Tensor]):
    """Weights of a base network under the names that they have once it is wrapped, and those of a new adapter."""

    def __init__(self, base: StartWeights, shapes: Mapping[str, tuple[int, int]], seed: int) -> None:
        self._base, self._shapes, self._seed = base, shapes, seed
        self._names = {_wrapped_name(name): name for name in base}

    def __getitem__(self, name: str) -> Tensor:
        if name in self._shapes:
            return self._adapter(name)
        return self._base[self._names[name]]

    def shape(self, name: str) -> tuple[int, ...]:
        """Without reading the tensor."""
        return self._shapes[name] if name in self._shapes else self._base.shape(self._names[name])

    def piece(self, name: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of the flattened tensor; of the base, what another rank holds is not read."""
        if name in self._shapes:
            return self._adapter(name).reshape(-1)[start:stop]
        return self._base.piece(self._names[name], start, stop)

    def _adapter(self, name: str) -> Tensor:
        """As a new linear layer of torch for A, zeros for B; each from a seed of its own."""
        shape = self._shapes[name]
        if ".lora_B." in name:
            return torch.zeros(shape)
        digest = hashlib.blake2b(f"{self._seed}:{name}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
        return nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5), generator=generator)

    def __contains__(self, name: object) -> bool:
        return name in self._names or name in self._shapes  # a mapping by itself would fetch the tensor

    def __iter__(self) -> Iterator[str]:
        yield from self._names
        yield from self._shapes

    def __len__(self) -> int:
        return len(self._names) + len(self._shapes)


def _wrapped_name(name: str) -> str:
    """peft moves an adapted layer's own parameters to `base_layer`."""
    layer, _, parameter = name.rpartition(".")
    return f"{layer}.base_layer.{parameter}" if re.fullmatch(TARGETS, layer) else name
