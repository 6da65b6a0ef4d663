"""Trained weights to a folder that `Generator.from_pretrained` loads, tensor by tensor, visible when it is whole."""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint import SHARD_BYTES, CheckpointError, save_state
from model.checksums import check, read_json
from model.components import INDEX, GenerationConfig
from model.config import TransformerConfig
from model.inspect import meta_model
from skyreels import leftovers

PARTS = ("video_codec", "audio_codec", "encoder")


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
    encoder = read_index(components)["encoder"]
    with published(Path(out)) as folder:
        _write(weights, config, folder / "transformer", dtype, max_shard_bytes)
        for part in PARTS:
            _link(Path(components) / part, folder / part)
        index = {
            "components": sorted(("transformer", *PARTS)),
            "encoder": encoder,
            **dataclasses.asdict(generation),
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
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
    index = read_index(base)
    with published(Path(out)) as folder:
        for part in index["components"]:
            if part != "refiner":
                _link(Path(base) / part, folder / part)
        _write(weights, config, folder / "refiner", dtype, max_shard_bytes)
        index["components"] = sorted({*index["components"], "refiner"})
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
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


def read_index(folder: str | Path) -> dict[str, Any]:
    """`model_index.json` of a folder. Raises FileNotFoundError, or CheckpointError for a damaged one."""
    path = Path(folder) / INDEX
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {folder} was not finished, run its stage again")
    return read_json(path)


def _link(source: Path, target: Path) -> None:
    """Copy a folder by hard links, or by bytes where the disk has none. Raises CheckpointError for damaged weights."""
    check(source)
    shutil.copytree(source, target, copy_function=_link_file)


def _link_file(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
