"""Elementwise work of the layers, each piece one kernel where a process asks for it.

Op by op, a modulated norm reads and writes its tokens seven times over, most of them in float32; on a GPU such work
takes more of a layer than its matrix products do (docs/performance.md). PyTorch's compiler makes one kernel of each
function that is marked. None of them holds weights, so hooks around modules (ZeRO-3, streamed layers) see nothing of
it, and each is compiled once for all lengths.
"""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch

Given = ParamSpec("Given")
Made = TypeVar("Made")

VARIANTS = 64
"""Of one function: precisions, layouts and what is given, not lengths. One more raises, where PyTorch would go on
uncompiled."""

Backend = str | Callable[..., Any]
"""As `torch.compile` takes it."""

_backend: Backend | None = None


def compile_elementwise(on: bool, backend: Backend = "inductor") -> None:
    """From now on, in this process, or no longer. The first steps take some seconds for each function.

    On a GPU it takes triton, on a CPU g++.
    """
    global _backend
    _backend = backend if on else None
    if on:
        torch._dynamo.config.recompile_limit = VARIANTS
        torch._dynamo.config.fail_on_recompile_limit_hit = True


def elementwise(made: Callable[Given, Made]) -> Callable[Given, Made]:
    """Mark a function of tensors that may be compiled by itself."""

    @wraps(made)
    def run(*given: Given.args, **named: Given.kwargs) -> Made:
        if _backend is None or torch.compiler.is_compiling():
            return made(*given, **named)
        result: Made = _compiled(made, _backend)(*given, **named)
        return result

    return run


@cache
def _compiled(made: Callable[Given, Made], backend: Backend) -> Callable[Given, Made]:
    return torch.compile(made, backend=backend, dynamic=True, fullgraph=True)
