"""Triton kernels of the fine stage of Video Sparse Attention; `launch` launches them.

Queries, keys and values stay in token order, (B, heads, N, d) of any strides whose last is 1: a cube's tokens are
found by arithmetic, so nothing is permuted. Padding of ragged cubes, and of heads whose width is no power of two, is
read as zeros and never written. Products add up in float32; scores are kept in the base 2 logarithm.

`start` is the grid's first token, (time, height, width) its tokens, cube_rows and cube_columns its cubes along the last
two, `length` N, `kept` the key cubes of each query cube; within, they are `geometry` and `sizes`. Strides are those of
(B, heads, N). EDGES is the cube, SLOTS its tokens and BLOCK_D the head's width rounded up to what products take.
"""

import triton
import triton.language as tl

NUMBERS = (
    "start",
    "time",
    "height",
    "width",
    "cube_rows",
    "cube_columns",
    "length",
    "heads",
    "cubes",
    "kept",
    "rest",
    "share",
)
"""What no kernel is compiled anew for."""


@triton.jit(do_not_specialize=NUMBERS)
def forward(
    q, k, v, out, lse, selected, key_mask, q_strides, k_strides, v_strides, out_strides,
    start, time, height, width, cube_rows, cube_columns, length, heads, cubes, kept, scale,
    EDGES: tl.constexpr, SLOTS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, RAGGED: tl.constexpr,
    REST: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One query cube of one head: its output, and the logarithms of its softmax denominators (B * heads, cubes, SLOTS).

    `out` holds the grid's tokens alone.
    """
    geometry, sizes = (start, time, height, width, cube_rows, cube_columns, length), (heads, cubes, kept)
    cube, row = tl.program_id(0), tl.program_id(1)
    k, v = k + _of(row, k_strides, sizes[0]), v + _of(row, v_strides, sizes[0])
    slots = _slots(geometry, EDGES, SLOTS)
    origin, exists = _origin(cube, geometry, EDGES), _exists(cube, geometry, EDGES, SLOTS)
    queries = _load(
        q + _of(row, q_strides, sizes[0]), geometry[0] + origin, q_strides, slots, exists, D, BLOCK_D, RAGGED
    )
    highest = tl.full((SLOTS,), float("-inf"), tl.float32)
    total = tl.zeros((SLOTS,), tl.float32)
    summed = tl.zeros((SLOTS, BLOCK_D), tl.float32)
    chosen = selected + (row.to(tl.int64) * sizes[1] + cube) * sizes[2]
    for at in range(sizes[2]):
        key_cube = tl.load(chosen + at)
        key_origin = geometry[0] + _origin(key_cube, geometry, EDGES)
        keys_exist = _exists(key_cube, geometry, EDGES, SLOTS)
        keys = _load(k, key_origin, k_strides, slots, keys_exist, D, BLOCK_D, RAGGED)
        values = _load(v, key_origin, v_strides, slots, keys_exist, D, BLOCK_D, RAGGED)
        summed, total, highest = _add_block(
            queries, keys, values, keys_exist, summed, total, highest, scale, RAGGED, PRECISION
        )
    if REST:
        for at in range(0, geometry[6] - geometry[1] * geometry[2] * geometry[3], SLOTS):
            tokens, keys_exist = _rest(at, geometry, key_mask, row // sizes[0], SLOTS, MASKED)
            keys = _load(k, 0, k_strides, tokens, keys_exist, D, BLOCK_D, True)
            values = _load(v, 0, v_strides, tokens, keys_exist, D, BLOCK_D, True)
            summed, total, highest = _add_block(
                queries, keys, values, keys_exist, summed, total, highest, scale, True, PRECISION
            )
    tl.store(lse + (row.to(tl.int64) * sizes[1] + cube) * SLOTS + tl.arange(0, SLOTS), highest + tl.log2(total))
    made = summed / total[:, None]
    _store(out + _of(row, out_strides, sizes[0]), made, origin, out_strides, slots, exists, D, BLOCK_D, RAGGED)


@triton.jit(do_not_specialize=NUMBERS)
def query_gradient(
    q, k, v, out, grad_out, lse, delta, grad_q, selected, key_mask, q_strides, k_strides, v_strides, out_strides,
    grad_out_strides, grad_q_strides,
    start, time, height, width, cube_rows, cube_columns, length, heads, cubes, kept, scale,
    EDGES: tl.constexpr, SLOTS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, RAGGED: tl.constexpr,
    REST: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One query cube of one head: its gradient, and `delta`, what each query's softmax takes off all of its scores."""
    geometry, sizes = (start, time, height, width, cube_rows, cube_columns, length), (heads, cubes, kept)
    cube, row = tl.program_id(0), tl.program_id(1)
    k, v = k + _of(row, k_strides, sizes[0]), v + _of(row, v_strides, sizes[0])
    slots = _slots(geometry, EDGES, SLOTS)
    origin, exists = _origin(cube, geometry, EDGES), _exists(cube, geometry, EDGES, SLOTS)
    queries = _load(
        q + _of(row, q_strides, sizes[0]), geometry[0] + origin, q_strides, slots, exists, D, BLOCK_D, RAGGED
    )
    made = _load(out + _of(row, out_strides, sizes[0]), origin, out_strides, slots, exists, D, BLOCK_D, RAGGED)
    grad_out += _of(row, grad_out_strides, sizes[0])
    grad = _load(grad_out, origin, grad_out_strides, slots, exists, D, BLOCK_D, RAGGED)
    at_slots = (row.to(tl.int64) * sizes[1] + cube) * SLOTS + tl.arange(0, SLOTS)
    level = tl.load(lse + at_slots)
    taken = tl.sum(made.to(tl.float32) * grad.to(tl.float32), 1)
    tl.store(delta + at_slots, taken)
    summed = tl.zeros((SLOTS, BLOCK_D), tl.float32)
    chosen = selected + (row.to(tl.int64) * sizes[1] + cube) * sizes[2]
    for at in range(sizes[2]):
        key_cube = tl.load(chosen + at)
        key_origin = geometry[0] + _origin(key_cube, geometry, EDGES)
        keys_exist = _exists(key_cube, geometry, EDGES, SLOTS)
        keys = _load(k, key_origin, k_strides, slots, keys_exist, D, BLOCK_D, RAGGED)
        values = _load(v, key_origin, v_strides, slots, keys_exist, D, BLOCK_D, RAGGED)
        summed = _add_query_gradient(
            queries, keys, values, grad, keys_exist, level, taken, summed, scale, RAGGED, PRECISION
        )
    if REST:
        for at in range(0, geometry[6] - geometry[1] * geometry[2] * geometry[3], SLOTS):
            tokens, keys_exist = _rest(at, geometry, key_mask, row // sizes[0], SLOTS, MASKED)
            keys = _load(k, 0, k_strides, tokens, keys_exist, D, BLOCK_D, True)
            values = _load(v, 0, v_strides, tokens, keys_exist, D, BLOCK_D, True)
            summed = _add_query_gradient(
                queries, keys, values, grad, keys_exist, level, taken, summed, scale, True, PRECISION
            )
    grad_q += _of(row, grad_q_strides, sizes[0])
    _store(grad_q, summed * (scale / LOG2_E), geometry[0] + origin, grad_q_strides, slots, exists, D, BLOCK_D, RAGGED)


@triton.jit(do_not_specialize=NUMBERS)
def key_gradients(
    q, k, v, grad_out, lse, delta, grad_k, grad_v, order, starts, readers, q_strides, k_strides, v_strides,
    grad_out_strides, grad_strides,
    start, time, height, width, cube_rows, cube_columns, length, heads, cubes, kept, scale,
    EDGES: tl.constexpr, SLOTS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, RAGGED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One key cube of one head: what the queries of its `readers`, the query cubes that selected it, ask of it.

    `order` names the cubes with most readers first, `starts` where the readers of each cube begin.
    """
    geometry, sizes = (start, time, height, width, cube_rows, cube_columns, length), (heads, cubes, kept)
    row = tl.program_id(1)
    cube = tl.load(order + row.to(tl.int64) * sizes[1] + tl.program_id(0))
    q, grad_out = q + _of(row, q_strides, sizes[0]), grad_out + _of(row, grad_out_strides, sizes[0])
    slots = _slots(geometry, EDGES, SLOTS)
    origin, exists = _origin(cube, geometry, EDGES), _exists(cube, geometry, EDGES, SLOTS)
    keys = _load(k + _of(row, k_strides, sizes[0]), geometry[0] + origin, k_strides, slots, exists, D, BLOCK_D, RAGGED)
    values = _load(
        v + _of(row, v_strides, sizes[0]), geometry[0] + origin, v_strides, slots, exists, D, BLOCK_D, RAGGED
    )
    of_keys = tl.zeros((SLOTS, BLOCK_D), tl.float32)
    of_values = tl.zeros((SLOTS, BLOCK_D), tl.float32)
    starts += row.to(tl.int64) * sizes[1] + cube
    for at in range(tl.load(starts), tl.load(starts + 1)):
        of_keys, of_values = _add_key_gradients(
            tl.load(readers + at), row, q, grad_out, lse, delta, keys, values, of_keys, of_values, q_strides,
            grad_out_strides, geometry, sizes, slots, scale, EDGES, SLOTS, D, BLOCK_D, RAGGED, PRECISION,
        )  # fmt: skip
    offset = _of(row, grad_strides, sizes[0])
    of_keys = of_keys * (scale / LOG2_E)
    _store(grad_k + offset, of_keys, geometry[0] + origin, grad_strides, slots, exists, D, BLOCK_D, RAGGED)
    _store(grad_v + offset, of_values, geometry[0] + origin, grad_strides, slots, exists, D, BLOCK_D, RAGGED)


@triton.jit(do_not_specialize=NUMBERS)
def rest_gradients(
    q, k, v, grad_out, lse, delta, grad_k, grad_v, key_mask, q_strides, k_strides, v_strides, grad_out_strides,
    start, time, height, width, cube_rows, cube_columns, length, heads, cubes, kept, rest, share, scale,
    EDGES: tl.constexpr, SLOTS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, RAGGED: tl.constexpr,
    MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """SLOTS keys outside the grid, which all query cubes read: what `share` of these ask of them.

    grad_k, grad_v: (shares, B * heads, rest, d) float32, to be summed over the shares.
    """
    geometry, sizes = (start, time, height, width, cube_rows, cube_columns, length), (heads, cubes, kept)
    at, row, part = tl.program_id(0) * SLOTS, tl.program_id(1), tl.program_id(2)
    q, grad_out = q + _of(row, q_strides, sizes[0]), grad_out + _of(row, grad_out_strides, sizes[0])
    slots = _slots(geometry, EDGES, SLOTS)
    tokens, exists = _rest(at, geometry, key_mask, row // sizes[0], SLOTS, MASKED)
    keys = _load(k + _of(row, k_strides, sizes[0]), 0, k_strides, tokens, exists, D, BLOCK_D, True)
    values = _load(v + _of(row, v_strides, sizes[0]), 0, v_strides, tokens, exists, D, BLOCK_D, True)
    of_keys = tl.zeros((SLOTS, BLOCK_D), tl.float32)
    of_values = tl.zeros((SLOTS, BLOCK_D), tl.float32)
    for cube in range(part * share, tl.minimum(part * share + share, sizes[1])):
        of_keys, of_values = _add_key_gradients(
            cube, row, q, grad_out, lse, delta, keys, values, of_keys, of_values, q_strides,
            grad_out_strides, geometry, sizes, slots, scale, EDGES, SLOTS, D, BLOCK_D, RAGGED, PRECISION,
        )  # fmt: skip
    places, dims = at + tl.arange(0, SLOTS), tl.arange(0, BLOCK_D)
    offsets = (((part * tl.num_programs(1) + row).to(tl.int64) * rest + places) * D)[:, None] + dims[None, :]
    inside = (places < rest)[:, None] & (dims < D)[None, :]
    tl.store(grad_k + offsets, tl.where(exists[:, None], of_keys * (scale / LOG2_E), 0.0), inside)
    tl.store(grad_v + offsets, tl.where(exists[:, None], of_values, 0.0), inside)


LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _add_block(
    queries, keys, values, keys_exist, summed, total, highest, scale, CHECK: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    """A step of the online softmax. The first block always holds a key that exists, so no row stays at -inf."""
    scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale
    if CHECK:
        scores = tl.where(keys_exist[None, :], scores, float("-inf"))
    higher = tl.maximum(highest, tl.max(scores, 1))
    weights = tl.exp2(scores - higher[:, None])
    fade = tl.exp2(highest - higher)
    summed = tl.dot(weights.to(values.dtype), values, summed * fade[:, None], input_precision=PRECISION)
    return summed, total * fade + tl.sum(weights, 1), higher


@triton.jit
def _add_query_gradient(
    queries, keys, values, grad, keys_exist, level, taken, summed, scale, CHECK: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    weights = tl.exp2(tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale - level[:, None])
    if CHECK:
        weights = tl.where(keys_exist[None, :], weights, 0.0)
    of_scores = weights * (tl.dot(grad, tl.trans(values), input_precision=PRECISION) - taken[:, None])
    return tl.dot(of_scores.to(keys.dtype), keys, summed, input_precision=PRECISION)


@triton.jit
def _add_key_gradients(
    cube, row, q, grad_out, lse, delta, keys, values, of_keys, of_values, q_strides, grad_out_strides, geometry,
    sizes, slots, scale, EDGES: tl.constexpr, SLOTS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    RAGGED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What the queries of one cube ask. Those in padding are zero, as are their gradients: they add nothing."""
    origin, exists = _origin(cube, geometry, EDGES), _exists(cube, geometry, EDGES, SLOTS)
    queries = _load(q, geometry[0] + origin, q_strides, slots, exists, D, BLOCK_D, RAGGED)
    grad = _load(grad_out, origin, grad_out_strides, slots, exists, D, BLOCK_D, RAGGED)
    at_slots = (row.to(tl.int64) * sizes[1] + cube) * SLOTS + tl.arange(0, SLOTS)
    level, taken = tl.load(lse + at_slots), tl.load(delta + at_slots)
    weights = tl.exp2(tl.dot(keys, tl.trans(queries), input_precision=PRECISION) * scale - level[None, :])
    of_values = tl.dot(weights.to(grad.dtype), grad, of_values, input_precision=PRECISION)
    of_scores = weights * (tl.dot(values, tl.trans(grad), input_precision=PRECISION) - taken[None, :])
    return tl.dot(of_scores.to(queries.dtype), queries, of_keys, input_precision=PRECISION), of_values


@triton.jit
def _of(row, strides, heads):
    """Where sample and head `row` of a tensor begin."""
    return (row // heads).to(tl.int64) * strides[0] + (row % heads).to(tl.int64) * strides[1]


@triton.jit
def _slots(geometry, EDGES: tl.constexpr, SLOTS: tl.constexpr):
    """Tokens from a cube's first to each of its slots: the same for every cube."""
    slot = tl.arange(0, SLOTS)
    rows = slot // (EDGES[1] * EDGES[2]) * geometry[2] + slot // EDGES[2] % EDGES[1]
    return rows * geometry[3] + slot % EDGES[2]


@triton.jit
def _origin(cube, geometry, EDGES: tl.constexpr):
    """The first token of a cube, counted from the grid's first."""
    time, row = cube // (geometry[4] * geometry[5]) * EDGES[0], cube // geometry[5] % geometry[4] * EDGES[1]
    return ((time * geometry[2] + row) * geometry[3] + cube % geometry[5] * EDGES[2]).to(tl.int64)


@triton.jit
def _exists(cube, geometry, EDGES: tl.constexpr, SLOTS: tl.constexpr):
    """Which slots of a cube lie inside the grid."""
    slot = tl.arange(0, SLOTS)
    time = cube // (geometry[4] * geometry[5]) * EDGES[0] + slot // (EDGES[1] * EDGES[2])
    row = cube // geometry[5] % geometry[4] * EDGES[1] + slot // EDGES[2] % EDGES[1]
    column = cube % geometry[5] * EDGES[2] + slot % EDGES[2]
    inside = (time < geometry[1]) & (row < geometry[2]) & (column < geometry[3])
    return inside & (slot < EDGES[0] * EDGES[1] * EDGES[2])


@triton.jit
def _rest(at, geometry, key_mask, sample, SLOTS: tl.constexpr, MASKED: tl.constexpr):
    """SLOTS tokens of those before and after the grid, from the `at`-th on, and which of them exist."""
    place = at + tl.arange(0, SLOTS)
    grid = geometry[1] * geometry[2] * geometry[3]
    exists = place < geometry[6] - grid
    tokens = tl.where(place < geometry[0], place, place + grid).to(tl.int64)
    if MASKED:
        exists = exists & (tl.load(key_mask + sample.to(tl.int64) * geometry[6] + tokens, exists, 0) != 0)
    return tokens, exists


@triton.jit
def _load(
    base, origin, strides, slots, exists, D: tl.constexpr, BLOCK_D: tl.constexpr, CHECK: tl.constexpr
):  # fmt: skip
    """(SLOTS, BLOCK_D) of the tokens `origin` + `slots`, zeros where none exists."""
    dims = tl.arange(0, BLOCK_D)
    pointers = base + origin * strides[2] + (slots * strides[2])[:, None] + dims[None, :]
    if CHECK:
        loaded = tl.load(pointers, exists[:, None] & (dims < D)[None, :], 0.0)
    elif D < BLOCK_D:
        loaded = tl.load(pointers, (dims < D)[None, :], 0.0)
    else:
        loaded = tl.load(pointers)
    return loaded


@triton.jit
def _store(
    base, tile, origin, strides, slots, exists, D: tl.constexpr, BLOCK_D: tl.constexpr, CHECK: tl.constexpr
):  # fmt: skip
    dims = tl.arange(0, BLOCK_D)
    pointers = base + origin * strides[2] + (slots * strides[2])[:, None] + dims[None, :]
    tile = tile.to(base.dtype.element_ty)
    if CHECK:
        tl.store(pointers, tile, exists[:, None] & (dims < D)[None, :])
    else:
        tl.store(pointers, tile, (dims < D)[None, :])
