"""Video Sparse Attention against a masked dense attention in float64, built token by token from the definition."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.network.vsa import SparsePlan, from_cubes, into_cubes, sparse_attention, valid_tokens

BATCH, HEADS, WIDTH = 2, 2, 8


def cube_of_each_token(plan: SparsePlan) -> list[int]:
    _, rows, columns = (math.ceil(size / edge) for size, edge in zip(plan.grid, plan.cube, strict=True))
    return [
        ((t // plan.cube[0]) * rows + h // plan.cube[1]) * columns + w // plan.cube[2]
        for t in range(plan.grid[0])
        for h in range(plan.grid[1])
        for w in range(plan.grid[2])
    ]


def oracle(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, plan: SparsePlan, key_mask: Tensor | None = None) -> Tensor:
    """gate * coarse + fine by the definition, one dense score matrix for everything."""
    cube = torch.tensor(cube_of_each_token(plan))
    cubes, size = int(cube.max()) + 1, len(cube)
    grid = slice(plan.start, plan.start + size)
    member = (cube[None] == torch.arange(cubes)[:, None]).double()
    member = member / member.sum(1, keepdim=True)
    means = [member @ part[:, :, grid] for part in (q, k, v)]
    coarse_scores = means[0] @ means[1].mT / math.sqrt(q.shape[-1])
    coarse = (coarse_scores.softmax(-1) @ means[2])[:, :, cube]

    kept = min(max(math.ceil(round((1 - plan.sparsity) * cubes, 6)), 1), cubes)
    threshold = coarse_scores.sort(-1, descending=True).values[..., kept - 1 : kept]
    chosen = coarse_scores >= threshold
    allowed = torch.ones(*q.shape[:3], q.shape[2], dtype=torch.bool)
    allowed[:, :, grid, grid] = chosen[:, :, cube][:, :, :, cube]
    if key_mask is not None:
        allowed &= key_mask[:, None, None]
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~allowed, -math.inf)
    out = scores.softmax(-1) @ v
    added = torch.zeros_like(out)
    added[:, :, grid] = gate * coarse
    return out + added


def draw(plan: SparsePlan, after: int, seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    total = plan.start + plan.tokens + after
    shapes = [(BATCH, HEADS, total, WIDTH)] * 3 + [(BATCH, HEADS, plan.tokens, WIDTH)]
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def compare_with_oracle(plan: SparsePlan, after: int, key_mask: Tensor | None = None, seed: int = 0) -> None:
    """Output and all four gradients agree."""
    inputs = [part.requires_grad_() for part in draw(plan, after, seed)]
    exact = [part.detach().double().requires_grad_() for part in inputs]
    out, expected = sparse_attention(*inputs, plan, key_mask), oracle(*exact, plan, key_mask)
    if key_mask is not None:
        keep = key_mask[:, None, :, None]
        out, expected = out * keep, expected * keep
    torch.testing.assert_close(out, expected.float(), atol=1e-5, rtol=1e-4)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed + 1))
    (out * direction).sum().backward()
    (expected * direction).sum().backward()
    for actual, wanted in zip(inputs, exact, strict=True):
        torch.testing.assert_close(actual.grad, wanted.grad.float(), atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize(("start", "after"), [(0, 0), (3, 5)])
@pytest.mark.parametrize("grid", [(8, 8, 8), (5, 7, 6)])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_forward_and_gradients_equal_the_oracle(
    start: int, after: int, grid: tuple[int, int, int], sparsity: float
) -> None:
    compare_with_oracle(SparsePlan(start, grid, sparsity), after)


@settings(max_examples=15, deadline=None)
@given(
    grid=st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9)),
    sparsity=st.floats(0, 0.95),
    start=st.integers(0, 3),
    after=st.integers(0, 4),
    seed=st.integers(0, 100),
)
def test_any_ragged_grid_equals_the_oracle(grid, sparsity, start, after, seed) -> None:
    compare_with_oracle(SparsePlan(start, grid, sparsity, cube=(2, 4, 3)), after, seed=seed)


def test_masked_text_is_read_by_no_cube() -> None:
    plan = SparsePlan(2, (4, 8, 6), 0.6)
    key_mask = torch.ones(BATCH, 2 + plan.tokens + 6, dtype=torch.bool)
    key_mask[1, -4:] = False
    compare_with_oracle(plan, 6, key_mask)


def test_groups_of_query_cubes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from model.network import vsa_gather

    monkeypatch.setattr(vsa_gather, "GROUP_SCORES", 1)
    compare_with_oracle(SparsePlan(1, (5, 8, 8), 0.7), 3)


def test_all_cubes_and_a_closed_gate_equal_dense_attention() -> None:
    plan = SparsePlan(2, (6, 8, 8), 1e-9)
    assert plan.kept == math.prod(plan.cubes)
    q, k, v, gate = draw(plan, 3)
    out = sparse_attention(q, k, v, torch.zeros_like(gate), plan)
    torch.testing.assert_close(out, torch.nn.functional.scaled_dot_product_attention(q, k, v), atol=1e-5, rtol=1e-4)


@given(grid=st.tuples(*[st.integers(1, 9)] * 3))
def test_cubes_and_back_is_the_identity_for_any_grid(grid: tuple[int, int, int]) -> None:
    plan = SparsePlan(0, grid, 0.5)
    x = torch.randn(1, 1, plan.tokens, 2)
    cubes = into_cubes(x, plan)
    assert cubes.shape == (1, 1, math.prod(plan.cubes), 64, 2)
    assert torch.equal(from_cubes(cubes, plan), x)
    valid = valid_tokens(plan, x.device)
    assert (64 * math.prod(plan.cubes) if valid is None else int(valid.sum())) == plan.tokens


def test_padding_of_ragged_cubes_gets_no_gradient() -> None:
    plan = SparsePlan(0, (5, 5, 5), 0.5)
    from model.network.vsa_gather import gather_fine

    valid = valid_tokens(plan, torch.device("cpu"))
    q, k, v = (torch.randn(1, 1, 8, 64, WIDTH, requires_grad=True) for _ in range(3))
    selected = torch.arange(8)[None, None, None].expand(1, 1, 8, 8)[..., :4]
    empty = torch.zeros(1, 1, 0, WIDTH)
    gather_fine(q, k, v, selected, valid, empty, empty, None)[0, 0][valid].sum().backward()
    for part in (k, v):
        assert not part.grad[0, 0][~valid].any()
        assert part.grad[0, 0][:4][valid[:4]].any()


def test_a_planted_needle_is_found() -> None:
    """Every query looks for one direction that a single far cube's keys have: that cube must be among the chosen."""
    plan = SparsePlan(0, (8, 16, 16), 0.95)
    q, k, v, gate = draw(plan, 0)
    cube = torch.tensor(cube_of_each_token(plan))
    needle = cube == 25
    direction = torch.zeros(WIDTH)
    direction[0] = 6
    q, k, v = q + direction, k + needle[:, None] * direction, v * 0.01 + needle[:, None]
    out = sparse_attention(q, k, v, torch.zeros_like(gate), plan)
    assert (out - 1).abs().max() < 0.1


def test_the_gate_adds_the_coarse_stage() -> None:
    plan = SparsePlan(0, (8, 8, 4), 0.5)
    q, k, v, gate = draw(plan, 0)
    closed = sparse_attention(q, k, v, torch.zeros_like(gate), plan)
    half, whole = (sparse_attention(q, k, v, torch.full_like(gate, weight), plan) for weight in (0.5, 1.0))
    torch.testing.assert_close(half - closed, (whole - closed) / 2, atol=1e-6, rtol=1e-4)
    assert (whole - closed).abs().max() > 0.01


@pytest.mark.parametrize(
    ("sparsity", "cubes", "kept"),
    [(0.0, 10, 10), (0.9, 10, 1), (0.875, 64, 8), (0.7, 10, 3), (0.99, 8, 1), (0.5, 7, 4)],
)
def test_kept_cubes(sparsity: float, cubes: int, kept: int) -> None:
    assert SparsePlan(0, (cubes, 1, 1), sparsity, cube=(1, 1, 1)).kept == kept


@pytest.mark.slow
def test_compiled_flex_attention_equals_the_oracle() -> None:
    plan = SparsePlan(3, (5, 8, 10), 0.6, kernel="flex")
    key_mask = torch.ones(BATCH, 3 + plan.tokens + 5, dtype=torch.bool)
    key_mask[1, -3:] = False
    q, k, v, gate = draw(plan, 5)
    with torch.no_grad():
        out = sparse_attention(q, k, v, gate, plan, key_mask)
    expected = oracle(q.double(), k.double(), v.double(), gate.double(), plan, key_mask)
    torch.testing.assert_close(out[0], expected[0].float(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(out[1, :, :-3], expected[1, :, :-3].float(), atol=1e-5, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("grid", [(8, 16, 16), (5, 8, 10)])
def test_flex_attention_on_a_gpu_equals_the_gather_path_forward_and_backward(grid: tuple[int, int, int]) -> None:
    plan = SparsePlan(3, grid, 0.6)
    generator = torch.Generator().manual_seed(0)
    total = 3 + plan.tokens + 77
    inputs = [torch.randn(1, 4, total, 64, generator=generator).cuda().bfloat16() for _ in range(3)]
    inputs.append(torch.randn(1, 4, plan.tokens, 64, generator=generator).cuda().bfloat16())
    results = []
    for kernel, precision in (("flex", torch.bfloat16), ("gather", torch.float32)):
        leaves = [part.to(precision).detach().requires_grad_() for part in inputs]
        out = sparse_attention(*leaves, dataclasses.replace(plan, kernel=kernel))
        out.float().square().sum().backward()
        results.append([out, *[leaf.grad for leaf in leaves]])
    for actual, expected in zip(*results, strict=True):
        assert (actual.float() - expected).norm() / expected.norm() < 0.03
