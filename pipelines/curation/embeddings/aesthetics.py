"""An aesthetics score: a small head on the clip's embedding, as published by LAION for CLIP ViT-L/14."""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file


class AestheticsHead:
    """Linear layers one after the other, from a safetensors file, without activations (LAION's MLP has none).

    The file holds `weight`/`bias` (one layer) or `<prefix>.<n>.weight`/`.bias` in order of n. A head only means
    something on embeddings of the model it was trained on. Raises ValueError for a file of another shape.
    """

    def __init__(self, path: str | Path) -> None:
        if Path(path).suffix != ".safetensors":
            raise ValueError(f"embedding.aesthetics must be a .safetensors file, not {path}: convert it first")
        tensors = load_file(path)
        weights = sorted((name for name in tensors if name.split(".")[-1] == "weight"), key=_place)
        if not weights:
            raise ValueError(f"{path} holds no layer: found {', '.join(sorted(tensors)) or 'nothing'}, want *.weight")
        self._path = path
        self._layers = [
            (tensors[name].astype(np.float32), tensors[f"{name[:-6]}bias"].astype(np.float32)) for name in weights
        ]
        widths = [weight.shape for weight, _ in self._layers]
        if any(a[0] != b[1] for a, b in pairwise(widths)) or widths[-1][0] != 1:
            raise ValueError(f"the layers of {path} do not lead to one number: their shapes are {widths}")

    def __call__(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N,) scores of (N, D) unit embeddings, on the head's own scale (LAION: about 1 to 10)."""
        wanted = self._layers[0][0].shape[1]
        if embeddings.shape[1] != wanted:
            raise ValueError(
                f"{self._path} reads embeddings of {wanted} numbers, these have {embeddings.shape[1]}: "
                "it belongs to another model"
            )
        for weight, bias in self._layers:
            embeddings = embeddings @ weight.T + bias
        return embeddings[:, 0]


def _place(name: str) -> int:
    found = re.search(r"(\d+)\.weight$", name)
    return int(found.group(1)) if found else 0
