"""A module on one device, whole: what `ShardedModule` is without ranks, in plain PyTorch.

In fp32 it computes what the engine computes on one rank. In bf16 weights stay fp32 and autocast lowers the arithmetic,
where the engine keeps bf16 weights beside fp32 ones: what is saved by ranks is not worth saving on one device.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from skyreels.training.config import EngineConfig
from skyreels.training.zero import Place, Read, ShardedModule, decay_groups

T = TypeVar("T")
MOMENTS = ("exp_avg", "exp_avg_sq")


class WholeModule:
    """The module, its optimizer, and views of its state by name. Every parameter is a partition of its own."""

    def __init__(self, module: nn.Module, config: EngineConfig, accumulation: int, device: torch.device) -> None:
        self.module = module.to(device).train()
        self._device, self._config, self._accumulation = device, config, accumulation
        self._trainable = {name: param for name, param in module.named_parameters() if param.requires_grad}
        options = config.optimizer
        self._optimizer = torch.optim.AdamW(
            decay_groups(module, options.weight_decay),
            lr=options.learning_rate,
            betas=options.betas,
            eps=options.eps,
            fused=True,
        )
        for param in self._trainable.values():  # gradients and moments exist from the start, whatever a step uses
            param.grad = torch.zeros_like(param)
            zeros = {moment: torch.zeros_like(param, requires_grad=False) for moment in MOMENTS}
            self._optimizer.state[param] = {"step": torch.tensor(0.0, device=device), **zeros}
        self._micro_steps = 0
        self._may_update: Callable[[float], bool] = lambda norm: True

    def run(self, call: Callable[[nn.Module], T]) -> T:
        """`call(module)` in the precision that trains."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._config.precision == "bf16"):
            return call(self.module)

    def backward(self, loss: Tensor) -> None:
        (loss / self._accumulation).backward()

    def step(self, learning_rate: float) -> None:
        """End a micro-step; the last one of an accumulation updates the weights, if the gate opens."""
        self._micro_steps += 1
        if self._micro_steps % self._accumulation:
            return
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        norm = torch.nn.utils.clip_grad_norm_(self._trainable.values(), self._config.clip)
        if self._may_update(float(norm)):
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=False)

    def close(self) -> None:
        """Nothing outlives the module."""

    def set_gate(self, may_update: Callable[[float], bool]) -> None:
        """Ask `may_update(gradient norm)` before each update."""
        self._may_update = may_update

    @torch.no_grad()
    def exchange(self, values: Sequence[Tensor]) -> None:
        """Swap `values`, laid out as `flat_weights`, with the trainable weights; once more swaps them back."""
        for weight, value in zip(self.flat_weights, values, strict=True):
            before = weight.clone()
            weight.copy_(value)
            value.copy_(before)

    @property
    def flat_weights(self) -> list[Tensor]:
        """Views of the weights that train."""
        return [param.detach().view(-1) for param in self._trainable.values()]

    def flat_state(self) -> dict[str, list[Tensor]]:
        """Views by kind: weight, exp_avg, exp_avg_sq."""
        states = [self._optimizer.state[param] for param in self._trainable.values()]
        return {"weight": self.flat_weights} | {kind: [state[kind].view(-1) for state in states] for kind in MOMENTS}

    def places(self) -> dict[str, Place]:
        """Of every trainable parameter."""
        return {name: Place(number, 0, p.numel()) for number, (name, p) in enumerate(self._trainable.items())}

    def frozen(self) -> dict[str, Tensor]:
        """The parameters that do not train, flat."""
        params = self.module.named_parameters()
        return {name: param.detach().view(-1) for name, param in params if not param.requires_grad}

    def shapes(self) -> dict[str, torch.Size]:
        """Of all parameters."""
        return {name: param.shape for name, param in self.module.named_parameters()}

    def buffers(self) -> dict[str, Tensor]:
        """Those that belong to the module's state."""
        parameters = dict(self.module.named_parameters())
        return {name: value for name, value in self.module.state_dict().items() if name not in parameters}

    @property
    def updates(self) -> int:
        """Updates that the moments have seen."""
        return int(next(iter(self._optimizer.state.values()))["step"])

    @updates.setter
    def updates(self, count: int) -> None:
        for state in self._optimizer.state.values():
            state["step"].fill_(count)

    def state_bytes(self) -> int:
        """Of weights and moments."""
        tensors = [flat for flats in self.flat_state().values() for flat in flats] + list(self.frozen().values())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@torch.no_grad()
def load_whole(module: nn.Module, read: Read) -> None:
    """Fill every parameter of a built module."""
    for name, param in module.named_parameters():
        values = read("weight" if param.requires_grad else "frozen", name, 0, param.numel())
        if values is not None:
            param.view(-1).copy_(values)


Held = ShardedModule | WholeModule
"""A module that trains: its weights spread over ranks, or whole on one device."""
