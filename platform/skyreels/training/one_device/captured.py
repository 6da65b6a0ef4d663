"""A micro-step as one CUDA graph: for small modules, whose kernels take longer to launch than to run.

Everything that a step computes is recorded once for every layout of batches and replayed for each batch of it, so a
loss may do nothing that depends on values on the host: no `item()`, no tensor made of Python numbers on the device.
"""

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skyreels.training.errors import TrainingError
from skyreels.training.one_device.whole import WholeModule
from skyreels.training.trainable import StepLoss

MOST_LAYOUTS = 512
_WARM_UP = 2  # before recording: what is chosen or allocated at a first call is then there
_TOLD = frozenset({"keys", "skipped", "tokens", "flops"})  # of a Batch: said of it, and not computed with


class CapturedSteps:
    """Forward and backward of batches on a GPU; gradients are added to those that the parameters hold."""

    def __init__(self, module: WholeModule, loss: Callable[[nn.Module, Any], StepLoss], device: torch.device) -> None:
        self._module, self._loss, self._device = module, loss, device
        self._recorded: dict[Hashable, _Recorded] = {}
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, batch: Any) -> StepLoss:
        """Learn from a batch on the CPU. Raises TrainingError where batches come in too many layouts to record."""
        layout = layout_of(batch)
        if layout not in self._recorded:
            if len(self._recorded) == MOST_LAYOUTS:
                raise TrainingError(
                    f"captured=true: batches came in more than {MOST_LAYOUTS} layouts (shapes, and numbers such as "
                    "the sparsity), and each is recorded: let fewer things differ from step to step, or set captured "
                    "to false"
                )
            self._recorded[layout] = self._record(batch)
        recorded = self._recorded[layout]
        for place, value in zip(recorded.places, tensors_of(batch), strict=True):
            place.copy_(value, non_blocking=True)
        recorded.graph.replay()
        return _copied(recorded.made)

    def _record(self, batch: Any) -> "_Recorded":
        static = batch.to(self._device)
        gradients = [param.grad for param in self._module.module.parameters() if param.grad is not None]
        before = [gradient.clone() for gradient in gradients]
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UP):
                self._learn(static)
        graph = torch.cuda.CUDAGraph()
        # Of this thread alone: another one pins the next batch meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            made = self._learn(static)
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        torch._foreach_copy_(gradients, before)
        return _Recorded(graph, tuple(tensors_of(static)), made)

    def _learn(self, batch: Any) -> StepLoss:
        step_loss = self._module.run(lambda module: self._loss(module, batch))
        self._module.backward(step_loss.loss)
        return StepLoss(step_loss.loss.detach(), step_loss.sums)


@dataclasses.dataclass(frozen=True)
class _Recorded:
    graph: "torch.cuda.CUDAGraph"
    places: tuple[Tensor, ...]
    """Where the graph reads a batch's tensors, in the order of `tensors_of`."""
    made: StepLoss


def _copied(made: StepLoss) -> StepLoss:
    """Apart from where the graphs write, which share their memory."""
    sums = {name: (_copy(total), _copy(weight)) for name, (total, weight) in made.sums.items()}
    return StepLoss(made.loss.clone(), sums)


def _copy(value: Tensor | float) -> Tensor | float:
    return value.clone() if isinstance(value, Tensor) else value


def tensors_of(value: Any) -> Iterator[Tensor]:
    """The tensors in dataclasses, mappings and sequences, in an order that values of one layout share."""
    if isinstance(value, Tensor):
        yield value
    for _, part in _parts(value):
        yield from tensors_of(part)


def layout_of(batch: Any) -> Hashable:
    """What two batches must have in common to be computed alike: shapes, types and all that is no tensor."""
    parts = [(name, part) for name, part in _parts(batch) if name not in _TOLD]
    return tuple((name, _layout(part)) for name, part in parts)


def _layout(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    if dataclasses.is_dataclass(value) or isinstance(value, Mapping | list | tuple):
        return type(value), tuple((name, _layout(part)) for name, part in _parts(value))
    return value  # type: ignore[no-any-return]


def _parts(value: Any) -> Sequence[tuple[Hashable, Any]]:
    """What a value is made of, by name; of a tensor or a number, nothing."""
    if dataclasses.is_dataclass(value):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, Mapping):
        return sorted(value.items())
    return list(enumerate(value)) if isinstance(value, list | tuple) else []
