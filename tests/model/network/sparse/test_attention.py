"""Video Sparse Attention against a masked dense attention in float64, built token by token from the definition."""

import dataclasses
import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.network.sparse import attention as vsa
from model.network.sparse import flex
from model.network.sparse.attention import SparsePlan, from_cubes, into_cubes, sparse_attention, valid_tokens

BATCH, HEADS, WIDTH = 2, 2, 8
ON = "cuda" if torch.cuda.is_available() else "cpu"
"""Where Triton's kernels run: without a GPU in Triton's interpreter, slowly."""
needs_triton = pytest.mark.skipif(not vsa.HAS_TRITON, reason="needs triton: pip install triton==3.9.0")


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
    device, loose = (ON, 10) if plan.kernel == "triton" else ("cpu", 1)
    inputs = [part.requires_grad_() for part in draw(plan, after, seed)]
    exact = [part.detach().double().requires_grad_() for part in inputs]
    on_device = [part.to(device) for part in inputs]
    out = sparse_attention(*on_device, plan, key_mask.to(device) if key_mask is not None else None).cpu()
    expected = oracle(*exact, plan, key_mask)
    if key_mask is not None:
        keep = key_mask[:, None, :, None]
        out, expected = out * keep, expected * keep
    torch.testing.assert_close(out, expected.float(), atol=1e-5 * loose, rtol=1e-4 * loose)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed + 1))
    (out * direction).sum().backward()
    (expected * direction).sum().backward()
    for actual, wanted in zip(inputs, exact, strict=True):
        torch.testing.assert_close(actual.grad, wanted.grad.float(), atol=2e-5 * loose, rtol=1e-3 * loose)


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


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize(
    ("start", "grid", "cube", "after"),
    [
        (0, (4, 8, 8), (4, 4, 4), 0),
        (3, (5, 7, 6), (4, 4, 4), 0),
        (0, (8, 8, 4), (4, 4, 4), 70),
        (2, (4, 5, 7), (2, 4, 3), 37),
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_triton_kernels_equal_the_oracle_forward_and_backward(
    start: int, grid: tuple[int, int, int], cube: tuple[int, int, int], after: int, masked: bool
) -> None:
    plan = SparsePlan(start, grid, 0.6, cube, kernel="triton")
    key_mask = None
    if masked:
        key_mask = torch.ones(BATCH, start + plan.tokens + after, dtype=torch.bool)
        key_mask[0, :start], key_mask[1, start + plan.tokens + 2 :] = False, False
        key_mask[0, start + plan.tokens :: 2] = False
    compare_with_oracle(plan, after, key_mask)


@needs_triton
def test_triton_kernels_take_any_strides_and_half_precision() -> None:
    """Queries, keys and values as layers make them: slices of one tensor, heads inside tokens, and odd gradients."""
    plan = SparsePlan(1, (4, 8, 5), 0.5, kernel="triton")
    packed = torch.randn(1, plan.tokens + 4, 3, HEADS, 24, generator=torch.Generator().manual_seed(0))
    results = []
    for precision, kernel, device in ((torch.float16, "triton", ON), (torch.float32, "gather", "cpu")):
        leaf = packed.to(device, precision).requires_grad_()
        q, k, v = (part.transpose(1, 2) for part in leaf.unbind(2))
        selected = vsa.select_cubes(
            *(vsa.cube_means(plan.slice_grid(part.cpu().float(), 2), plan) for part in (q, k)), 2
        )
        out = vsa.fine_stage(q, k, v, selected.to(device), dataclasses.replace(plan, kernel=kernel), None)
        out.mT.contiguous().mT.float().square().sum().backward()
        results.append((out.float().cpu(), leaf.grad.float().cpu()))
    for actual, expected in zip(*results, strict=True):
        assert (actual - expected).norm() / expected.norm() < 2e-3


@needs_triton
def test_inverse_index_names_the_readers_of_every_cube() -> None:
    from model.network.sparse.launch import inverse_index

    selected = torch.rand(2, 3, 11, 11, generator=torch.Generator().manual_seed(0)).topk(4, -1).indices.int()
    readers, starts, order = inverse_index(selected)
    assert readers.shape == (selected.numel(),)
    for row, pairs in enumerate(selected.flatten(0, 1)):
        counts = []
        for cube in range(11):
            at = row * 11 + cube
            found = readers[starts[at] : starts[at + 1]].tolist()
            assert found == [query for query in range(11) if cube in pairs[query].tolist()]
            counts.append(len(found))
        assert [counts[cube] for cube in order[row]] == sorted(counts, reverse=True)


def test_a_kernel_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vsa, "HAS_TRITON", False)
    assert vsa.chosen_kernel("auto", "cuda") == vsa.chosen_kernel("auto", "cpu") == "gather"
    with pytest.raises(ImportError, match="install triton, or set it to auto or gather"):
        vsa.chosen_kernel("triton", "cuda")
    monkeypatch.setattr(vsa, "HAS_TRITON", True)
    assert vsa.chosen_kernel("auto", "cuda") == "triton"


def test_groups_of_query_cubes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from model.network.sparse import gather

    monkeypatch.setattr(gather, "GROUP_SCORES", 1)
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
    from model.network.sparse.gather import gather_fine

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
@pytest.mark.parametrize("kernel", ["flex", "triton"])
def test_kernels_on_a_gpu_equal_the_gather_path_forward_and_backward(grid: tuple[int, int, int], kernel: str) -> None:
    plan = SparsePlan(3, grid, 0.6)
    generator = torch.Generator().manual_seed(0)
    total = 3 + plan.tokens + 77
    inputs = [torch.randn(1, 4, total, 64, generator=generator).cuda().bfloat16() for _ in range(3)]
    inputs.append(torch.randn(1, 4, plan.tokens, 64, generator=generator).cuda().bfloat16())
    results = []
    for name, precision in ((kernel, torch.bfloat16), ("gather", torch.float32)):
        leaves = [part.to(precision).detach().requires_grad_() for part in inputs]
        out = sparse_attention(*leaves, dataclasses.replace(plan, kernel=name))
        out.float().square().sum().backward()
        results.append([out, *[leaf.grad for leaf in leaves]])
    for actual, expected in zip(*results, strict=True):
        assert (actual.float() - expected).norm() / expected.norm() < 0.03


@pytest.mark.slow
def test_one_shape_too_many_for_flex_attention_is_an_error_and_never_runs_eagerly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flex, "SHAPES", 1)
    torch._dynamo.reset()
    run_flex = partial(run_without_gradients, kernel="flex")
    run_flex((4, 8, 4))
    run_flex((4, 8, 4))
    with pytest.raises(RuntimeError, match=r"compiled for 1 shapes.*set sparse_kernel to triton or gather"):
        run_flex((4, 8, 8))
    torch._dynamo.reset()


@pytest.mark.parametrize("at_once", [1, 100, 10_000])
def test_a_selection_made_in_tiles_is_that_of_the_whole_score_matrix(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vsa, "SELECTION_SCORES", at_once)
    generator = torch.Generator().manual_seed(0)
    mean_q, mean_k = (torch.randn(2, 3, 37, 16, generator=generator) for _ in range(2))
    scores = (mean_q.double() @ mean_k.double().mT) / 4
    selected = vsa.select_cubes(mean_q, mean_k, 5)
    assert selected.dtype == torch.int32
    assert torch.equal(selected.long().sort(-1).values, scores.topk(5, -1).indices.sort(-1).values)


def test_no_tensor_of_cubes_times_cubes_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """512 cubes of one token each, 8 kept, looked at 16 at a time: nothing may hold 512 x 512 numbers."""
    monkeypatch.setattr(vsa, "SELECTION_SCORES", 16 * 512)
    plan = SparsePlan(0, (8, 8, 8), 1 - 8 / 512, cube=(1, 1, 1))
    generator = torch.Generator().manual_seed(0)
    q, k, v, gate = (torch.randn(1, 1, 512, 16, generator=generator, requires_grad=True) for _ in range(4))
    with LargestTensor() as seen:
        sparse_attention(q, k, v, gate, plan).sum().backward()
    assert seen.numbers < 512 * 512


class LargestTensor(TorchDispatchMode):
    """Counts the numbers in the largest tensor that any operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for part in tree_leaves(made):
            if isinstance(part, Tensor):
                self.numbers = max(self.numbers, part.untyped_storage().nbytes() // part.element_size())
        return made


def run_without_gradients(grid: tuple[int, int, int], kernel: str) -> None:
    plan = SparsePlan(0, grid, 0.5, kernel=kernel)
    with torch.no_grad():
        sparse_attention(*draw(plan, 0), plan)
