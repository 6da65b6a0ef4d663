"""Elementwise work, compiled: what op by op gives, for all lengths at once, and an error where a limit is met."""

import dataclasses
import shutil

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from model.network.elementwise import compile_elementwise
from model.network.mmdit import JointInputs, MMDiT
from model.network.modulation import Vector, gated_residual, modulated_norm
from model.network.rope import RotaryTable, rotate
from tests.model.network.test_mmdit import TINY, build, joint_inputs

WIDTH, HEADS = 24, 3


@pytest.fixture
def compiled():
    """Switches it on with a backend that counts what it compiles, and makes no kernels; off again at the end."""
    counted = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=8):
        compile_elementwise(True, counted)
        yield counted
        compile_elementwise(False)
    torch._dynamo.reset()


def given(tokens, precision, references=0):
    """Tokens of media that are a part of a longer sequence, as in a layer of one stream, and all else."""
    x = torch.randn(2, tokens + 3, WIDTH, dtype=precision)[:, :tokens].requires_grad_()
    update = torch.randn(2, tokens, WIDTH, dtype=precision, requires_grad=True)
    clean = torch.randn(2, 1, WIDTH) if references else None
    shift, scale, gate = (Vector(torch.randn(2, 1, WIDTH, requires_grad=True), clean, references) for _ in range(3))
    heads = torch.randn(2, tokens, HEADS, WIDTH // HEADS, dtype=precision).transpose(1, 2).requires_grad_()
    table = RotaryTable(torch.randn(tokens, WIDTH // HEADS), torch.randn(tokens, WIDTH // HEADS))
    return {
        "norm": (modulated_norm, (x, shift, scale), (x, shift.noisy, scale.noisy)),
        "residual": (gated_residual, (x, update, gate), (x, update, gate.noisy)),
        "rotation": (rotate, (heads, table), (heads,)),
    }


def results(function, arguments, leaves):
    made = function(*arguments)
    return [made, *torch.autograd.grad(made.float().square().sum(), leaves)]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("references", [0, 4])
@pytest.mark.parametrize("name", ["norm", "residual", "rotation"])
def test_values_and_gradients_are_those_of_op_by_op(name, references, precision, compiled):
    torch.manual_seed(0)
    function, arguments, leaves = given(11, precision, references)[name]
    made = results(function, arguments, leaves)
    assert compiled.frame_count == 1
    compile_elementwise(False)
    expected = results(function, arguments, leaves)
    assert compiled.frame_count == 1
    for ours, theirs in zip(made, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["norm", "residual", "rotation"])
def test_one_compilation_serves_all_lengths(name, compiled):
    for tokens in (7, 11, 64, 5, 33):
        function, arguments, _ = given(tokens, torch.float32)[name]
        function(*arguments)
    assert compiled.frame_count == 1


def test_what_would_go_on_uncompiled_is_an_error(compiled):
    torch._dynamo.config.recompile_limit = 1  # the fixture's patch sets it back
    for precision in (torch.float32, torch.bfloat16):
        function, arguments, _ = given(11, precision)["norm"]
        if precision == torch.float32:
            function(*arguments)
        else:
            with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
                function(*arguments)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="kernels for a CPU are made by g++")
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_a_network_of_compiled_kernels_gives_the_velocities_and_gradients_of_one_without(sparse, checkpointing):
    torch.manual_seed(1)
    config = dataclasses.replace(TINY, sparse=sparse, sparse_min_tokens=1, sparse_cube=(1, 2, 2))
    model, inputs = build(config), joint_inputs()
    reference = torch.randn(2, TINY.video_channels, 2, 4, 6)
    inputs = dataclasses.replace(inputs, video_references=(reference,), sparsity=0.5 if sparse else 0.0)
    model.gradient_checkpointing = model.keeps_attention = checkpointing
    expected = velocities_and_gradients(model, inputs)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=8):
        compile_elementwise(True)
        made = velocities_and_gradients(model, inputs)
        compile_elementwise(False)
    for ours, theirs in zip(made, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def velocities_and_gradients(model: MMDiT, inputs: JointInputs) -> list[torch.Tensor]:
    model.zero_grad(set_to_none=True)
    made = model(inputs)
    (made.video.square().mean() + made.audio.square().mean()).backward()
    return [made.video.detach(), made.audio.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]
