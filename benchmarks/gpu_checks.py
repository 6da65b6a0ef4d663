"""Right results on a GPU: the sparse kernels and every block of the network against float64 on a CPU."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from model.config import TransformerConfig
from model.network.elementwise import compile_elementwise
from model.network.keyframes import KeyframeInput
from model.network.mmdit import JointInputs, MMDiT
from model.network.sparse import attention as vsa
from model.network.sparse.attention import SparsePlan

BOUNDS = {torch.bfloat16: 1.5e-2, torch.float16: 3e-3, torch.float32: 1e-4}


def check_kernel(device: str, small: bool) -> Iterator[tuple[str, float, float]]:
    """(what, the largest relative error of output and gradients, its bound) of even, ragged and masked clips."""
    cases = [(0, (8, 16, 16), 0, False), (70, (5, 18, 14), 77, False), (3, (6, 10, 9), 133, True)]
    chosen = [(torch.float16, cases[1:2])] if small else [(torch.bfloat16, cases), (torch.float32, cases[2:])]
    for precision, some in chosen:
        for start, grid, after, masked in some:
            plan = SparsePlan(start, (2, 5, 4) if small else grid, 0.6, kernel="triton")
            error = kernel_error(plan, after, masked, precision, device, width=16 if small else 128)
            what = f"{grid}, {start} before, {after} after{', masked' if masked else ''}, {str(precision)[6:]}"
            yield what, error, BOUNDS[precision]


def kernel_error(plan: SparsePlan, after: int, masked: bool, precision: torch.dtype, device: str, width: int) -> float:
    heads, length = 2, plan.start + plan.tokens + after
    exact = [torch.randn(2, length, heads, width).to(precision).double().transpose(1, 2) for _ in range(3)]
    cubes = math.prod(plan.cubes)
    selected = torch.rand(2, heads, cubes, cubes).topk(plan.kept, -1).indices
    key_mask = None
    if masked:
        key_mask = torch.ones(2, length, dtype=torch.bool)
        key_mask[0, :1], key_mask[1, -100:] = False, False
    results = []
    grad = torch.randn(2, heads, plan.tokens, width).to(precision)
    for where, dtype, kernel in (("cpu", torch.float64, "gather"), (device, precision, "triton")):
        leaves = [part.to(where, dtype).detach().requires_grad_() for part in exact]
        mask = key_mask.to(where) if key_mask is not None else None
        out = vsa.fine_stage(*leaves, selected.to(where), dataclasses.replace(plan, kernel=kernel), mask)
        made = [out, *torch.autograd.grad(out, leaves, grad.to(where, dtype))]
        results.append([part.detach().double().cpu() for part in made])
    return max(map(relative_error, results[1], results[0]))


def check_blocks(device: str, precision: torch.dtype, compiled: bool = False) -> Iterator[tuple[str, float]]:
    """(class, relative error) of every module that was called in one pass, given the inputs it had in float64.

    On the device with elementwise work `compiled`, or op by op, as float64 always is.
    """
    model, inputs = drawn()
    model, inputs = model.double(), moved(inputs, "cpu", torch.float64)
    calls: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any], Any]] = []
    hooks = [
        module.register_forward_hook(
            lambda module, args, kwargs, out: calls.append((module, args, kwargs, out)), with_kwargs=True
        )
        for module in model.modules()
    ]
    with torch.no_grad():
        model(inputs)
        for hook in hooks:
            hook.remove()
        compile_elementwise(compiled)
        on_device = {id(module): name for name, module in model.named_modules()}
        other = drawn()[0].to(device, precision)
        for module, args, kwargs, expected in calls:
            same = other.get_submodule(on_device[id(module)])
            actual = same(*moved(args, device, precision), **moved(kwargs, device, precision))
            pairs = zip(tensors(actual), tensors(expected), strict=True)
            yield type(module).__name__, max(relative_error(a, e) for a, e in pairs)
        compile_elementwise(False)


def check_gradients(device: str, precision: torch.dtype) -> float:
    """Relative error of all gradients together after one pass, against float32 on the CPU."""
    made = []
    for where, dtype in (("cpu", torch.float32), (device, precision)):
        model, inputs = drawn()
        model = model.to(where, dtype)
        outputs = model(moved(inputs, where, dtype))
        sum(part.float().square().mean() for part in tensors(outputs)).backward()
        made.append(torch.cat([parameter.grad.flatten().double().cpu() for parameter in model.parameters()]))
    return relative_error(made[1], made[0])


def drawn() -> tuple[MMDiT, JointInputs]:
    """A small joint network, every weight drawn anew, and inputs with references, keyframes and sparse attention.

    Weights that begin at zero would hide what is wrong before them.
    """
    generator = torch.Generator().manual_seed(0)
    config = TransformerConfig(
        width=256, heads=4, dual_blocks=1, single_blocks=1, text_width=64, video_channels=8, audio_channels=8,
        sparse=True, sparse_min_tokens=1,
    )  # fmt: skip
    model = MMDiT(config)
    for parameter in model.parameters():
        scale = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.1
        offset = float(parameter.detach().abs().mean() > 0.99)  # gains of norms stay near one
        parameter.data = offset + scale * torch.randn(parameter.shape, generator=generator)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    inputs = JointInputs(
        text=draw(2, 20, 64),
        text_mask=torch.arange(20) < torch.tensor([[20], [13]]),
        timesteps=torch.tensor([[0.3, 0.6], [0.8, 0.1]]),
        video=draw(2, 17, 5, 16, 20),
        audio=draw(2, 8, 40),
        audio_time_scale=0.125,
        video_references=(draw(2, 8, 1, 16, 20),),
        audio_references=(draw(2, 8, 6),),
        keyframes=KeyframeInput(draw(2, 17, 1, 32, 40), (2,)),
        sparsity=1e-9,  # through the sparse kernels, and yet all cubes: rounding may not choose others
    )
    return model, inputs


def moved(value: Any, device: str, precision: torch.dtype) -> Any:
    """Tensors within tuples, dicts and dataclasses on `device`; those of 64 bits, and inputs, in `precision`.

    What a float64 network keeps in float32 stays so: timesteps, positions, modulation.
    """
    if isinstance(value, Tensor):
        halves = value.dtype == torch.float64 or (precision == torch.float64 and value.is_floating_point())
        return value.to(device, precision if halves else value.dtype)
    if isinstance(value, tuple):
        parts = [moved(part, device, precision) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, dict):
        return {
            key: part.to(device) if key == "timesteps" else moved(part, device, precision)
            for key, part in value.items()
        }
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **moved(fields, device, precision))
    return value


def tensors(value: Any) -> list[Tensor]:
    """Floating tensors of a module's output; what it only hands on is left out."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if hasattr(value, "_fields") and "context" in value._fields:
        return [*tensors(value.media), *tensors(value.text)]
    if isinstance(value, tuple):
        return [tensor for part in value for tensor in tensors(part)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [tensor for field in dataclasses.fields(value) for tensor in tensors(getattr(value, field.name))]
    return []


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what is expected; a shape that differs or a NaN is infinitely wrong."""
    if actual.shape != expected.shape:
        return math.inf
    expected = expected.double().cpu()
    error = float((actual.double().cpu() - expected).norm() / expected.norm().clamp_min(1e-30))
    return error if math.isfinite(error) else math.inf
