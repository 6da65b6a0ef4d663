"""Weights that lie on the host: each layer of a network comes to the device for its own work alone.

A layer of a long clip works for a second, and its copy takes some hundredths of one: this costs little, and frees
nearly all that weights take.
"""

from typing import Any

import torch
from torch import Tensor, nn

from model.network.mmdit import MMDiT


def stream_layers(network: MMDiT, device: torch.device) -> None:
    """Keep all but the layers of `network` on `device`, and bring those there one by one, to be read."""
    for name, part in network.named_children():
        if name != "layers":
            part.to(device)
    network.keeps_text_keys = False
    for layer in network.layers:
        _Visitor(layer, device)


class _Visitor:
    """One layer's weights at home, and their way to the device and back."""

    def __init__(self, layer: nn.Module, device: torch.device) -> None:
        self.device = device
        self.home = {parameter: _pinned(parameter.detach(), device) for parameter in layer.parameters()}
        self._put(self.home)
        layer.register_forward_pre_hook(self._arrive)
        # A layer that fails leaves as well: its weights would stay on a device that may have failed for lack of room.
        layer.register_forward_hook(self._leave, always_call=True)

    def _arrive(self, layer: nn.Module, given: Any) -> None:
        self._put(
            {parameter: home.to(self.device, non_blocking=True, copy=True) for parameter, home in self.home.items()}
        )

    def _leave(self, layer: nn.Module, given: Any, made: Any) -> None:
        self._put(self.home)

    def _put(self, values: dict[nn.Parameter, Tensor]) -> None:
        for parameter, value in values.items():
            parameter.data = value


def _pinned(values: Tensor, device: torch.device) -> Tensor:
    """In host memory that a GPU reads directly."""
    return values.cpu().pin_memory() if device.type == "cuda" else values.cpu()
