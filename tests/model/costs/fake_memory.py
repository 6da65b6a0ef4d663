"""A step of a real network on tensors without values, and what lies in memory at its height."""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.config import TransformerConfig
from model.costs.flops import Workload
from model.network.keyframes import KeyframeInput
from model.network.mmdit import JointInputs, MMDiT


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations make, from when they are made until nothing holds them."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self.sizes:
            return
        self.sizes[storage._cdata] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, storage._cdata)

    def _freed(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


def peak_bytes(
    config: TransformerConfig,
    work: Workload,
    *,
    train: bool,
    checkpointing: bool = True,
    keeping: bool = False,
    fp32: bool = False,
) -> int:
    """What one sample of `work` needs at most beside weights and their gradients."""
    assert work.grid is not None
    with FakeTensorMode():
        torch.set_default_dtype(torch.float32 if fp32 else torch.bfloat16)  # fake weights cannot be converted
        try:
            model = MMDiT(config)
        finally:
            torch.set_default_dtype(torch.float32)
        model.gradient_checkpointing, model.keeps_attention = checkpointing, keeping
        weights = list(model.parameters())
        for parameter in weights if train else []:
            parameter.grad = torch.zeros_like(parameter)
        inputs = fake_inputs(config, work)
        gradients = [parameter.grad for parameter in weights if parameter.grad is not None]
        with LiveBytes([*weights, *gradients]) as live, torch.set_grad_enabled(train):
            made = model(inputs)
            if train:
                parts = (made.video, made.audio, made.keyframes)
                sum(part.square().mean() for part in parts if part is not None).backward()
        return live.peak


def fake_inputs(config: TransformerConfig, work: Workload) -> JointInputs:
    """As many tokens as `work` has; keyframes of twice the size, one for each four frames of tokens."""
    frames, rows, columns = work.grid or (0, 0, 0)
    height, width, channels = rows * config.patch[1], columns * config.patch[2], config.video_channels
    references, keyframes = work.video_references // (rows * columns), work.keyframes // (4 * rows * columns)
    shown = torch.randn(1, 2 * channels + 1, keyframes, 2 * height, 2 * width)
    return JointInputs(
        text=torch.randn(1, work.text, config.text_width),
        timesteps=torch.rand(1, 2),
        video=torch.randn(1, 2 * channels + 1, frames, height, width),
        audio=torch.randn(1, config.audio_channels, work.audio) if work.audio else None,
        audio_time_scale=0.1,
        video_references=[torch.randn(1, channels, references, height, width)] if references else [],
        keyframes=KeyframeInput(shown, tuple(range(keyframes))) if keyframes else None,
        sparsity=work.sparsity,
    )
