"""quasiseparable in Triton, forward: decays, the states that enter each chunk, each chunk's output.

Shapes as in `triton.py`. `x`, `B` and `C` have any strides but the last, which is 1; all else is
contiguous. `c~_i`, what position i reads with, is c_{i-1} forward and c_{i+1} backward; direction
(`side`) 0 enters a chunk at its left and leaves at its right, direction 1 the other way round.
"""
# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)  # logarithms have base 2: exp2 is one instruction


@triton.jit
def load_rows(base, first, offset, length, row_stride, SIZE: tl.constexpr):
    """Rows `first + offset` of a [length, SIZE] matrix; zeros where there is no such row."""
    row = first + offset
    base += first.to(tl.int64) * row_stride  # 64 bits once; within the tile 32 suffice
    return tl.load(
        base + (offset[:, None] * row_stride + tl.arange(0, SIZE)[None, :]),
        mask=((row >= 0) & (row < length))[:, None],
        other=0.0,
    )


@triton.jit(do_not_specialize=["length"])
def steps_kernel(dt, a, steps, length, heads, Q: tl.constexpr, BLOCK_H: tl.constexpr):
    """Decays and step sizes by chunk, for each head and direction: steps [B, K, H, 2, 4, Q].

    Rows 0 and 1: log2 of the decay from the entrance to the position, without and with its own.
    Row 2: the decay from the position, without its own, to the exit. Row 3: dt.
    Programs: chunk, block of heads, batch.
    """
    chunk, batch = tl.program_id(0), tl.program_id(2).to(tl.int64)
    q = tl.arange(0, Q)[None, :]
    head = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)[:, None]
    start = (batch * length + chunk * Q) * (2 * heads)
    dt += start
    a += start
    steps += (batch * tl.cdiv(length, Q) + chunk) * heads * (8 * Q) + head * (8 * Q) + q
    is_head = tl.broadcast_to(head < heads, (BLOCK_H, Q))
    for side in tl.static_range(2):
        tile = q * (2 * heads) + side * heads + head
        onward = 1 - 2 * side
        inside = is_head & (chunk * Q + q < length)
        followed = is_head & (q + onward >= 0) & (q + onward < Q)
        out = steps + side * (4 * Q)
        sums = tl.cumsum(tl.load(a + tile, mask=inside, other=0.0) * LOG2E, 1, reverse=side == 1)
        tl.store(out + Q, sums, mask=is_head)
        # The same numbers one further: between neighbours the difference is exactly 0.
        tl.store(out + onward, sums, mask=followed)
        tl.store(out, tl.zeros_like(sums), mask=is_head & (q == side * (Q - 1)))
        # A sum of its own: a difference of the other sums would lose digits.
        followed = followed & (chunk * Q + q + onward < length)
        ahead = tl.load(a + tile + onward * (2 * heads), mask=followed, other=0.0) * LOG2E
        tl.store(out + 2 * Q, tl.exp2(tl.cumsum(ahead, 1, reverse=side == 0)), mask=is_head)
        tl.store(out + 3 * Q, tl.load(dt + tile, mask=inside, other=0.0), mask=is_head)


@triton.jit
def walk(
    values,
    value_stride,
    keys,
    key_stride,
    steps,
    states,
    length,
    heads,
    onward,
    GRADIENT: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    Q: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Carry a head's [N, BLOCK_P] state over all chunks; store what enters each of them.

    Each position adds key value', decayed up to the chunk's exit. GRADIENT: the way from readers
    to sources; it runs against the direction, through the entrance, and reads c~ as keys.
    """
    dtype: tl.constexpr = values.dtype.element_ty
    q = tl.arange(0, Q)
    tile = tl.arange(0, N)[:, None] * P + tl.arange(0, BLOCK_P)[None, :]
    shift = -onward if GRADIENT else 0
    ahead = -onward if GRADIENT else onward
    last = tl.where(onward > 0, Q - 1, 0)
    chunks = tl.cdiv(length, Q)
    state = tl.zeros([N, BLOCK_P], tl.float32)
    for step in range(chunks):
        chunk = tl.where(ahead > 0, step, chunks - 1 - step)
        start = chunk.to(tl.int64) * heads
        tl.store(states + start * (2 * N * P) + tile, state.to(dtype))
        sums = steps + start * (8 * Q)
        if GRADIENT:
            weight = tl.exp2(tl.load(sums + q))
        else:
            weight = tl.load(sums + 2 * Q + q) * tl.load(sums + 3 * Q + q)
        value = load_rows(values, chunk * Q, q, length, value_stride, BLOCK_P)
        key = load_rows(keys, chunk * Q, q + shift, length, key_stride, N)
        value = (value.to(tl.float32) * weight[:, None]).to(dtype)
        state *= tl.exp2(tl.load(sums + Q + last))
        state = tl.dot(tl.trans(key), value, state, input_precision="ieee")


@triton.jit(do_not_specialize=["length"])
def states_kernel(
    x,
    dy,
    B,
    C,
    steps,
    states,
    gradients,
    length,
    heads,
    group_heads,
    x_strides,
    B_strides,
    C_strides,
    GRADIENTS: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    Q: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """States [B, K, H, 2, N, P] that enter the chunks; with GRADIENTS also those of the gradient.

    Programs: (direction or, from 2 on, direction of the gradient; tile of P), head, batch.
    """
    kinds: tl.constexpr = 4 if GRADIENTS else 2
    kind, column = tl.program_id(0) % kinds, tl.program_id(0) // kinds * BLOCK_P
    head, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    side, group = kind % 2, head // group_heads
    onward = 1 - 2 * side
    start = batch * tl.cdiv(length, Q) * heads + head
    steps += start * (8 * Q) + side * (4 * Q)
    pair = start * (2 * N * P) + side * (N * P) + column
    if kind < 2:
        values = x + batch * x_strides[0] + head.to(tl.int64) * x_strides[2] + column
        keys = B + batch * B_strides[0] + side * B_strides[2] + group * B_strides[3]
        states += pair
        walk(values, x_strides[1], keys, B_strides[1], steps, states, length, heads, onward,
             False, P, N, Q, BLOCK_P)  # fmt: skip
    elif GRADIENTS:
        values = dy + (batch * length * heads + head) * P + column
        keys = C + batch * C_strides[0] + side * C_strides[2] + group * C_strides[3]
        gradients += pair
        walk(values, heads * P, keys, C_strides[1], steps, gradients, length, heads, onward,
             True, P, N, Q, BLOCK_P)  # fmt: skip


@triton.jit(do_not_specialize=["length", "block_heads"])
def output_kernel(
    x,
    B,
    C,
    D,
    steps,
    states,
    y,
    length,
    heads,
    group_heads,
    block_heads,
    x_strides,
    B_strides,
    C_strides,
    HAS_D: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    Q: tl.constexpr,
):
    """y of one chunk for a block of a group's heads, which share the scores c~_i . b_j.

    Programs: chunk, (group, block of heads), batch.
    """
    dtype: tl.constexpr = x.dtype.element_ty
    chunk, batch = tl.program_id(0), tl.program_id(2).to(tl.int64)
    blocks = tl.cdiv(group_heads, block_heads)
    group, block = tl.program_id(1) // blocks, tl.program_id(1) % blocks
    first = chunk * Q
    q = tl.arange(0, Q)
    reader, source = q[:, None], q[None, :]
    below, same = source < reader, source == reader
    inside = first + q < length

    B += batch * B_strides[0] + group * B_strides[3]
    C += batch * C_strides[0] + group * C_strides[3]
    b_f = load_rows(B, first, q, length, B_strides[1], N)
    b_b = load_rows(B + B_strides[2], first, q, length, B_strides[1], N)
    c_f = load_rows(C, first, q - 1, length, C_strides[1], N)
    c_b = load_rows(C + C_strides[2], first, q + 1, length, C_strides[1], N)
    scores = tl.where(
        below,
        tl.dot(c_f, tl.trans(b_f), input_precision="ieee"),
        tl.dot(c_b, tl.trans(b_b), input_precision="ieee"),
    )

    x += batch * x_strides[0]
    x_head = tl.cast(x_strides[2], tl.int64)
    row_start = (batch * length + first) * heads
    y += row_start * P
    y_tile = reader * (heads * P) + tl.arange(0, P)[None, :]
    D += row_start + q * heads
    start = (batch * tl.cdiv(length, Q) + chunk) * heads
    steps += start * (8 * Q)
    states += start * (2 * N * P)
    state_tile = tl.arange(0, N)[:, None] * P + tl.arange(0, P)[None, :]
    head_start = group * group_heads + block * block_heads
    head_end = tl.minimum(head_start + block_heads, (group + 1) * group_heads)
    for head in range(head_start, head_end):
        sums_f, sums_b = steps + head * (8 * Q), steps + head * (8 * Q) + 4 * Q
        reader_f, reader_b = tl.load(sums_f + q), tl.load(sums_b + q)
        # Masked before the exponential: each triangle overflows in the other's sums.
        log_decay = tl.where(
            below,
            reader_f[:, None] - tl.load(sums_f + Q + q)[None, :],
            reader_b[:, None] - tl.load(sums_b + Q + q)[None, :],
        )
        dt_f, dt_b = tl.load(sums_f + 3 * Q + q), tl.load(sums_b + 3 * Q + q)
        matrix = scores * tl.exp2(log_decay) * tl.where(below, dt_f[None, :], dt_b[None, :])
        diagonal = tl.zeros([Q], tl.float32)
        if HAS_D:
            diagonal += tl.load(D + head, mask=inside, other=0.0)
        matrix = tl.where(same, diagonal[:, None], matrix)

        state = states + head * (2 * N * P) + state_tile
        out = tl.dot(c_f, tl.load(state), input_precision="ieee") * tl.exp2(reader_f)[:, None]
        from_right = tl.dot(c_b, tl.load(state + N * P), input_precision="ieee")
        out += from_right * tl.exp2(reader_b)[:, None]
        x_tile = load_rows(x + head * x_head, first, q, length, x_strides[1], P)
        out = tl.dot(matrix.to(dtype), x_tile, out, input_precision="ieee")
        tl.store(y + head * P + y_tile, out.to(dtype), mask=inside[:, None])
