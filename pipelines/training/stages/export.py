"""Trained weights to a folder that `Generator.from_pretrained` loads, tensor by tensor, visible when it is whole."""

import dataclasses
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint import SHARD_BYTES, save_state
from model.checksums import CheckpointError
from model.config import GenerationConfig, TransformerConfig
from model.costs.memory import meta_model
from model.folder import FROZEN, REFINER, TRANSFORMER, ModelIndex, link_part
from skyreels import leftovers


def export_transformer(
    weights: Mapping[str, Tensor],
    config: TransformerConfig,
    generation: GenerationConfig,
    components: str | Path,
    out: str | Path,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = SHARD_BYTES,
) -> Path:
    """A generator of `weights`, with the codecs and the encoder of the folder `components`.

    Weights are read one at a time, and stored as `dtype` or as they are; files of components are linked where the
    disk can. `sampling.keyframes` of `generation` says whether the weights were trained to make keyframes.
    """
    encoder = ModelIndex.read(components).encoder
    with published(Path(out)) as folder:
        _write(weights, config, folder / TRANSFORMER, dtype, max_shard_bytes)
        for part in FROZEN:
            link_part(components, folder, part)
        ModelIndex((TRANSFORMER, *FROZEN), generation, encoder).write(folder)
    return Path(out)


def export_refiner(
    weights: Mapping[str, Tensor],
    config: TransformerConfig,
    base: str | Path,
    out: str | Path,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = SHARD_BYTES,
) -> Path:
    """The generator in the folder `base` with `weights` as its refiner."""
    index = ModelIndex.read(base)
    kept = tuple(part for part in index.parts if part != REFINER)
    with published(Path(out)) as folder:
        for part in kept:
            link_part(base, folder, part)
        _write(weights, config, folder / REFINER, dtype, max_shard_bytes)
        dataclasses.replace(index, parts=(*kept, REFINER)).write(folder)
    return Path(out)


@contextmanager
def published(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` in one step when the block ends without an error.

    What earlier attempts left when they were killed is deleted.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    leftovers.sweep(out.parent, out.name, below=False)
    folder = out.with_name(leftovers.temporary_name(out.name))
    folder.mkdir()
    try:
        yield folder
        if out.exists():
            before = out.with_name(leftovers.temporary_name(out.name))
            out.rename(before)
            folder.rename(out)
            shutil.rmtree(before)
        else:
            folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(
    weights: Mapping[str, Tensor],
    config: TransformerConfig,
    folder: Path,
    dtype: torch.dtype | None,
    max_shard_bytes: int,
) -> None:
    shapes = {name: tuple(parameter.shape) for name, parameter in meta_model(config).named_parameters()}
    apart = sorted(shapes.keys() ^ set(weights))
    if apart:
        raise CheckpointError(
            f"the weights to export are not the network's: {', '.join(apart[:5])} in one of them alone"
        )

    def read(name: str) -> Tensor:
        value = weights[name]
        if tuple(value.shape) != shapes[name]:
            raise CheckpointError(f"{name} to export is {tuple(value.shape)}, the network's is {shapes[name]}")
        return value.to(dtype) if dtype is not None else value

    width = (dtype or torch.float32).itemsize
    sizes = {name: width * torch.Size(shape).numel() for name, shape in shapes.items()}
    named: dict[str, Any] = {"_class_name": "MMDiT", **dataclasses.asdict(config)}
    save_state(sizes, read, named, folder, max_shard_bytes=max_shard_bytes)
