"""Image-text embeddings through open_clip: a published tag, a safetensors file, or a local folder."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image

Frame = NDArray[np.uint8]
_BATCH = 16


class OpenClip:
    """A CLIP model behind the embedding interface.

    `model` is an architecture (`ViT-L-14`; for OpenAI's weights `ViT-L-14-quickgelu`) with `pretrained` a tag of
    open_clip or a `.safetensors` file; or `local-dir:<folder>` / `hf-hub:<org>/<name>`, which carry both. Tags and the
    hub need a network or a filled cache. Raises ValueError where the weights are missing or not safetensors.
    """

    draft_side = None  # its own scaling is part of what it was trained with

    def __init__(self, model: str, pretrained: str = "", device: str = "cpu") -> None:
        _check_source(model, pretrained)
        self._model, self._transform = open_clip.create_model_from_pretrained(
            model, pretrained or None, device=device, weights_only=True
        )
        self._model.eval().requires_grad_(False)
        self._device = device
        self.identity = f"open_clip:{_name(model)}@{_digest(self._model)}"

    def __call__(self, frames: Sequence[Frame]) -> NDArray[np.float32]:
        """(D,) unit vector of a clip's (H, W, 3) RGB frames."""
        return self.many([frames])[0]

    def many(self, clips: Sequence[Sequence[Frame]]) -> NDArray[np.float32]:
        """(N, D): the mean of a clip's unit frame vectors, at length 1. Frames of all clips share batches."""
        if any(not len(frames) for frames in clips):
            raise ValueError("a clip without frames has no embedding: leave it out")
        flat = [frame for frames in clips for frame in frames]
        vectors = np.concatenate([self._encode(flat[i : i + _BATCH]) for i in range(0, len(flat), _BATCH)])
        ends = np.cumsum([len(frames) for frames in clips])
        pooled = np.stack([part.mean(axis=0) for part in np.split(vectors, ends[:-1])])
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

    @torch.inference_mode()
    def _encode(self, frames: Sequence[Frame]) -> NDArray[np.float32]:
        """(N, D). The batch is filled up to one size, so a frame's vector does not depend on its company."""
        pixels = torch.stack([self._transform(Image.fromarray(frame)) for frame in frames])
        filling = pixels.new_zeros((_BATCH - len(frames), *pixels.shape[1:]))
        batch = torch.cat([pixels, filling]).to(self._device)
        return self._model.encode_image(batch, normalize=True)[: len(frames)].float().cpu().numpy()


def _check_source(model: str, pretrained: str) -> None:
    if model.startswith("local-dir:"):
        folder = Path(model.removeprefix("local-dir:"))
        if not any(folder.glob("*.safetensors")):
            raise ValueError(f"{folder} holds no .safetensors weights: save open_clip_model.safetensors there")
        pickled = [path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern)]
        if pickled:
            raise ValueError(f"{folder} holds pickled weights ({', '.join(pickled)}): keep only the .safetensors file")
    elif model.startswith("hf-hub:"):
        return
    elif not pretrained:
        raise ValueError(f"embedding.pretrained is empty: give a tag of open_clip or a .safetensors file for {model}")
    elif Path(pretrained).suffix in (".pt", ".pth", ".bin", ".ckpt"):
        raise ValueError(f"{pretrained} is a pickled checkpoint: convert it to .safetensors first")
    elif pretrained.endswith(".safetensors") and not Path(pretrained).is_file():
        raise ValueError(f"embedding.pretrained names {pretrained}, which is no file")


def _name(model: str) -> str:
    """Without the folder of a local model: the digest tells models apart, wherever they lie."""
    schema, colon, rest = model.partition(":")
    return f"{schema}{colon}{Path(rest).name}" if schema == "local-dir" else model


def _digest(model: torch.nn.Module) -> str:
    """12 hex digits of all weights."""
    total = hashlib.blake2b(digest_size=6)
    for name, tensor in sorted(model.state_dict().items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
