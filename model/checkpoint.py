"""Weights on disk as the ecosystem lays them out: `config.json` beside safetensors shards with an index.

transformer/config.json
transformer/diffusion_pytorch_model.safetensors                  (or, above one shard's size)
transformer/diffusion_pytorch_model-00001-of-00003.safetensors, ...
transformer/diffusion_pytorch_model.safetensors.index.json
transformer/checksums.json                                       of the weights, compared when they are loaded
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from model.checksums import CHECKSUMS, CheckpointError, check, read_json, seal
from model.codecs.latents import weights_identity
from model.config import Dataclass, TransformerConfig, from_mapping
from model.network.mmdit import MMDiT

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
SHARD_BYTES = 5 * 2**30
SHOWN_KEYS = 5
IDENTITY_ELEMENTS = 64


def save_transformer(model: MMDiT, directory: str | Path, *, max_shard_bytes: int = SHARD_BYTES) -> None:
    """Write a transformer and its config into `directory`."""
    save_module(model, dataclasses.asdict(model.config), directory, max_shard_bytes=max_shard_bytes)


def load_transformer(directory: str | Path, *, dtype: torch.dtype | None = None, device: str = "cpu") -> MMDiT:
    """Build a transformer from its config and read its weights. Raises CheckpointError."""
    config = stored_config(TransformerConfig, directory)
    with torch.device("meta"):
        model = MMDiT(config)
    model = model.to(dtype) if dtype is not None else model
    load_into(model.to_empty(device=device), directory)
    return model


def save_module(
    module: nn.Module, config: Mapping[str, Any], directory: str | Path, *, max_shard_bytes: int = SHARD_BYTES
) -> None:
    """Write weights and `config` into `directory`, each file in one step; weights of an earlier save are removed."""
    state = {key: value.detach() for key, value in module.state_dict().items()}
    named = {"_class_name": type(module).__name__, **config}
    sizes = {key: value.nbytes for key, value in state.items()}
    save_state(sizes, state.__getitem__, named, directory, max_shard_bytes=max_shard_bytes)


def save_state(
    sizes: Mapping[str, int],
    read: Callable[[str], Tensor],
    config: Mapping[str, Any],
    directory: str | Path,
    *,
    max_shard_bytes: int = SHARD_BYTES,
) -> None:
    """The same for weights that are read one by one: `sizes` in bytes, and `read` by key. Holds one shard at a time."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for stale in [directory / CHECKSUMS, *directory.glob(f"{Path(WEIGHTS).stem}*.safetensors"), directory / INDEX]:
        stale.unlink(missing_ok=True)
    shards = _into_shards(sizes, max_shard_bytes)
    names = _shard_names(len(shards))
    for name, keys in zip(names, shards, strict=True):
        partial = directory / f"{name}.partial"
        save_file({key: read(key).cpu().contiguous() for key in keys}, partial, metadata={"format": "pt"})
        os.replace(partial, directory / name)
    if len(names) > 1:
        placed = {key: name for name, keys in zip(names, shards, strict=True) for key in keys}
        _write_json(directory / INDEX, {"metadata": {"total_size": sum(sizes.values())}, "weight_map": placed})
    seal(directory)
    _write_json(directory / CONFIG, config)


def read_config(directory: str | Path) -> dict[str, Any]:
    """The values of `config.json`; those whose names start with `_` describe the file."""
    path = Path(directory) / CONFIG
    if not path.is_file():
        raise CheckpointError(
            f"{path} does not exist: {directory} is no checkpoint folder; check its name, or export it again"
        )
    return read_json(path)


def stored_config(kind: type[Dataclass], directory: str | Path) -> Dataclass:
    """What `config.json` says of the module, as its config class."""
    values = {key: value for key, value in read_config(directory).items() if not key.startswith("_")}
    return from_mapping(kind, values, str(Path(directory) / CONFIG))


def transformer_identity(config: TransformerConfig, state: Mapping[str, Tensor]) -> str:
    """16 hex digits that change with the configuration, the weights or their precision."""
    return weights_identity(dataclasses.asdict(config), state, IDENTITY_ELEMENTS)


def saved_identity(directory: str | Path) -> str:
    """`transformer_identity` of a checkpoint folder as it was saved; a few elements per tensor are read."""
    return transformer_identity(stored_config(TransformerConfig, directory), StoredState(directory))


def load_state(directory: str | Path, device: str = "cpu") -> dict[str, Tensor]:
    """All tensors of a checkpoint folder, from one file or from the shards its index names."""
    state: dict[str, Tensor] = {}
    check(directory)
    for path in _weight_files(Path(directory)):
        with _opened(path, device) as file:
            state.update({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 (not a mapping)
    return state


class StoredState(Mapping[str, Tensor]):
    """The tensors of a checkpoint folder, each read when it is asked for; of the files, only sizes are compared."""

    def __init__(self, directory: str | Path) -> None:
        check(directory, whole=False)
        self._files: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for path in _weight_files(Path(directory)):
            with _opened(path) as file:
                keys = file.keys()
                self._files |= dict.fromkeys(keys, path)
                self._shapes |= {key: tuple(file.get_slice(key).get_shape()) for key in keys}

    def __getitem__(self, key: str) -> Tensor:
        with _opened(self._files[key]) as file:
            tensor: Tensor = file.get_tensor(key)
        return tensor

    def __contains__(self, key: object) -> bool:
        return key in self._files  # a mapping by itself would fetch the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def piece(self, key: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of the flattened tensor. Of the file, the rows that hold them are read."""
        shape = self.shape(key)
        if not shape:
            return self[key].reshape(-1)[start:stop]
        row = max(1, math.prod(shape[1:]))
        first = start // row
        return self.rows(key, first, -(-stop // row)).reshape(-1)[start - first * row : stop - first * row]

    def rows(self, key: str, first: int, last: int) -> Tensor:
        """Rows [first, last) of a tensor, and no others, from the file."""
        with _opened(self._files[key]) as file:
            tensor: Tensor = file.get_slice(key)[first:last]
        return tensor

    def shape(self, key: str) -> tuple[int, ...]:
        """Without reading the tensor."""
        return self._shapes[key]


def load_into(module: nn.Module, directory: str | Path) -> None:
    """Fill `module` from a checkpoint folder, in the module's precision.

    Raises CheckpointError listing missing, unexpected and misshapen keys, before anything is changed.
    """
    state, own = load_state(directory), module.state_dict()
    problems = [
        _listed("missing", sorted(own.keys() - state.keys())),
        _listed("unexpected", sorted(state.keys() - own.keys())),
        _listed(
            "of another shape",
            [
                f"{key} (file {tuple(state[key].shape)}, model {tuple(own[key].shape)})"
                for key in sorted(own.keys() & state.keys())
                if state[key].shape != own[key].shape
            ],
        ),
    ]
    found = [problem for problem in problems if problem]
    if found:
        raise CheckpointError(
            f"the weights in {directory} do not fit {type(module).__name__}: {'; '.join(found)}. "
            "Build the model from the checkpoint's own config.json"
        )
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(state[key])


@contextmanager
def _opened(path: Path, device: str = "cpu") -> Iterator[Any]:
    try:
        with safe_open(path, "pt", device=device) as file:
            yield file
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}): copy the checkpoint again") from error


def _into_shards(sizes: Mapping[str, int], max_bytes: int) -> list[list[str]]:
    """Keys in order, a new shard whenever the next tensor would not fit."""
    shards: list[list[str]] = [[]]
    filled = 0
    for key, size in sizes.items():
        if shards[-1] and filled + size > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(key)
        filled += size
    return shards


def _shard_names(count: int) -> list[str]:
    if count == 1:
        return [WEIGHTS]
    stem = Path(WEIGHTS).stem
    return [f"{stem}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _weight_files(directory: Path) -> list[Path]:
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    if not (directory / INDEX).is_file():
        raise CheckpointError(
            f"{directory} holds neither {WEIGHTS} nor {INDEX}: it is no checkpoint folder; check its name, or export "
            "it again"
        )
    placed = read_json(directory / INDEX).get("weight_map")
    if not isinstance(placed, dict):
        raise CheckpointError(f"{directory / INDEX} is damaged (it maps no weights): copy the checkpoint again")
    files = [directory / name for name in sorted(set(placed.values()))]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise CheckpointError(f"{directory} lacks shards {', '.join(absent)}: copy the checkpoint again")
    return files


def _listed(what: str, keys: list[str]) -> str:
    if not keys:
        return ""
    more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return f"{len(keys)} {what}: {', '.join(keys[:SHOWN_KEYS])}{more}"


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(values, indent=2) + "\n")
    os.replace(partial, path)
