"""quasiseparable in Triton, backward: gradients of x, of the keys B and C, of steps and decays.

Shapes as in `triton.py`, words as in `triton_forward.py`. Matrices are transposed here: sources
j are rows, readers i are columns.
"""
# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl

from statefilm.ops.quasiseparable.triton_forward import load_rows


@triton.jit(do_not_specialize=["length", "block_heads"])
def tokens_kernel(
    dy,
    x,
    B,
    C,
    D,
    steps,
    gradients,
    dx,
    dD,
    dscores,
    parts,
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
    """dx and dD of one chunk for a block of a group's heads; what dscores and parts hold.

    dscores [B, K, G, blocks, Q, Q], float32: gradients of the scores, summed over these heads.
    parts [B, K, H, 2, 4, Q], rows 0 to 2: per position as source, without its dt, what it gives
    to the loss within the chunk and in later chunks; as reader, what it gains within the chunk.
    Programs: chunk, (group, block of heads), batch.
    """
    dtype: tl.constexpr = x.dtype.element_ty
    chunk, batch = tl.program_id(0), tl.program_id(2).to(tl.int64)
    blocks = tl.cdiv(group_heads, block_heads)
    group, block = tl.program_id(1) // blocks, tl.program_id(1) % blocks
    first = chunk * Q
    q = tl.arange(0, Q)
    source, reader = q[:, None], q[None, :]
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
        tl.dot(b_f, tl.trans(c_f), input_precision="ieee"),
        tl.dot(b_b, tl.trans(c_b), input_precision="ieee"),
    )
    dscore = tl.zeros([Q, Q], tl.float32)

    x += batch * x_strides[0]
    x_head = tl.cast(x_strides[2], tl.int64)
    row_start = (batch * length + first) * heads
    dy += row_start * P
    dx += row_start * P
    row_tile = source * (heads * P) + tl.arange(0, P)[None, :]
    D += row_start + q * heads
    dD += row_start + q * heads
    start = (batch * tl.cdiv(length, Q) + chunk) * heads
    steps += start * (8 * Q)
    parts += start * (8 * Q) + q
    gradients += start * (2 * N * P)
    gradient_tile = tl.arange(0, N)[:, None] * P + tl.arange(0, P)[None, :]
    head_start = group * group_heads + block * block_heads
    head_end = tl.minimum(head_start + block_heads, (group + 1) * group_heads)
    for head in range(head_start, head_end):
        sums_f, sums_b = steps + head * (8 * Q), steps + head * (8 * Q) + 4 * Q
        dt_f, dt_b = tl.load(sums_f + 3 * Q + q), tl.load(sums_b + 3 * Q + q)
        # Masked before the exponential: each triangle overflows in the other's sums.
        log_decay = tl.where(
            below,
            tl.load(sums_f + q)[None, :] - tl.load(sums_f + Q + q)[:, None],
            tl.load(sums_b + q)[None, :] - tl.load(sums_b + Q + q)[:, None],
        )
        decay = tl.where(same, 0.0, tl.exp2(log_decay))
        step = tl.where(below, dt_f[:, None], dt_b[:, None])

        x_tile = load_rows(x + head * x_head, first, q, length, x_strides[1], P)
        dy_tile = tl.load(dy + head * P + row_tile, mask=inside[:, None], other=0.0)
        dmatrix = tl.dot(x_tile, tl.trans(dy_tile), input_precision="ieee")
        diagonal = tl.zeros([Q], tl.float32)
        if HAS_D:
            diagonal += tl.load(D + head, mask=inside, other=0.0)
            tl.store(dD + head, tl.sum(tl.where(same, dmatrix, 0.0), 1), mask=inside)
        matrix = tl.where(same, diagonal[:, None], scores * decay * step)
        out = tl.dot(matrix.to(dtype), dy_tile, input_precision="ieee")

        part = parts + head * (8 * Q)
        dmatrix *= decay
        dscore += dmatrix * step
        dmatrix *= scores
        tl.store(part, tl.sum(tl.where(below, dmatrix, 0.0), 1))
        tl.store(part + 4 * Q, tl.sum(tl.where(below, 0.0, dmatrix), 1))
        dmatrix *= step
        tl.store(part + 2 * Q, tl.sum(tl.where(below, dmatrix, 0.0), 0))
        tl.store(part + 6 * Q, tl.sum(tl.where(below, 0.0, dmatrix), 0))

        pair = gradients + head * (2 * N * P) + gradient_tile
        x_wide = x_tile.to(tl.float32)
        later = tl.dot(b_f, tl.load(pair), input_precision="ieee")
        later *= tl.load(sums_f + 2 * Q + q)[:, None]
        tl.store(part + Q, tl.sum(later * x_wide, 1))
        out += later * dt_f[:, None]
        later = tl.dot(b_b, tl.load(pair + N * P), input_precision="ieee")
        later *= tl.load(sums_b + 2 * Q + q)[:, None]
        tl.store(part + 5 * Q, tl.sum(later * x_wide, 1))
        out += later * dt_b[:, None]
        tl.store(dx + head * P + row_tile, out.to(dtype), mask=inside[:, None])

    index = (batch * tl.cdiv(length, Q) + chunk) * tl.num_programs(1) + tl.program_id(1)
    tl.store(dscores + index * (Q * Q) + source * Q + reader, dscore)


@triton.jit(do_not_specialize=["length", "blocks"])
def keys_kernel(
    dy,
    x,
    B,
    C,
    steps,
    states,
    gradients,
    dscores,
    parts,
    through,
    dB,
    dC,
    length,
    heads,
    groups,
    blocks,
    x_strides,
    B_strides,
    C_strides,
    P: tl.constexpr,
    N: tl.constexpr,
    Q: tl.constexpr,
):
    """dB and dC of one chunk, group and direction, summed over the heads in their order.

    Also row 3 of parts, what each reader gains from the state that enters, and through
    [B, K, H, 2], what that state gives to later chunks. dC is zero before, where no position reads
    it. Programs: (chunk, group, direction), batch.
    """
    dtype: tl.constexpr = x.dtype.element_ty
    side, group = tl.program_id(0) % 2, tl.program_id(0) // 2 % groups
    chunk, batch = tl.program_id(0) // (2 * groups), tl.program_id(1).to(tl.int64)
    onward = 1 - 2 * side
    first = chunk * Q
    q = tl.arange(0, Q)
    source, reader = q[:, None], q[None, :]
    inside = first + source < length

    B += batch * B_strides[0] + side * B_strides[2] + group * B_strides[3]
    C += batch * C_strides[0] + side * C_strides[2] + group * C_strides[3]
    b = load_rows(B, first, q, length, B_strides[1], N)
    c = load_rows(C, first, q - onward, length, C_strides[1], N)
    start = batch * tl.cdiv(length, Q) + chunk
    dscores += (start * groups + group) * blocks * (Q * Q) + source * Q + reader
    dscore = tl.zeros([Q, Q], tl.float32)
    for block in range(blocks):
        dscore += tl.load(dscores + block * (Q * Q))
    dscore = tl.where((reader - source) * onward > 0, dscore, 0.0).to(dtype)
    db = tl.dot(dscore, c, input_precision="ieee")
    dc = tl.dot(tl.trans(dscore), b, input_precision="ieee")

    x += batch * x_strides[0]
    x_head = tl.cast(x_strides[2], tl.int64)
    dy += (batch * length + first) * heads * P
    dy_tile = source * (heads * P) + tl.arange(0, P)[None, :]
    steps += start * heads * (8 * Q) + side * (4 * Q)
    parts += start * heads * (8 * Q) + side * (4 * Q) + 3 * Q + q
    through += start * heads * 2 + side
    states += start * heads * (2 * N * P) + side * (N * P)
    gradients += start * heads * (2 * N * P) + side * (N * P)
    state_tile = tl.arange(0, N)[:, None] * P + tl.arange(0, P)[None, :]
    last = tl.where(side == 0, Q - 1, 0)
    group_heads = heads // groups
    for head in range(group * group_heads, (group + 1) * group_heads):
        sums = steps + head * (8 * Q)
        x_tile = load_rows(x + head * x_head, first, q, length, x_strides[1], P)
        gradient = tl.load(gradients + head * (2 * N * P) + state_tile)
        leaving = tl.load(sums + 2 * Q + q) * tl.load(sums + 3 * Q + q)
        db += tl.dot(x_tile, tl.trans(gradient), input_precision="ieee") * leaving[:, None]

        dy_rows = tl.load(dy + head * P + dy_tile, mask=inside, other=0.0)
        state = tl.load(states + head * (2 * N * P) + state_tile)
        entered = tl.dot(dy_rows, tl.trans(state), input_precision="ieee")
        entered *= tl.exp2(tl.load(sums + q))[:, None]
        dc += entered
        tl.store(parts + head * (8 * Q), tl.sum(entered * c.to(tl.float32), 1))
        across = tl.sum(state.to(tl.float32) * gradient.to(tl.float32))
        tl.store(through + head * 2, across * tl.exp2(tl.load(sums + Q + last)))

    row_stride = 2 * groups * N
    out = (batch * length + first) * row_stride + (side * groups + group) * N
    tile = source * row_stride + tl.arange(0, N)[None, :]
    tl.store(dB + out + tile, db.to(dtype), mask=inside)
    row = first + source - onward
    tile -= onward * row_stride
    tl.store(dC + out + tile, dc.to(dtype), mask=(row >= 0) & (row < length))


@triton.jit(do_not_specialize=["length"])
def decays_kernel(
    steps, parts, through, ddt, da, length, heads, Q: tl.constexpr, BLOCK_H: tl.constexpr
):
    """ddt and da from parts and through. Programs: chunk, block of heads, batch.

    a_t decays what sources on one side of t give to readers on the other. Within the chunk these
    sums over pairs are sums over positions: what readers past t gained, less what sources at or
    past t gave.
    """
    chunk, batch = tl.program_id(0), tl.program_id(2).to(tl.int64)
    q = tl.arange(0, Q)[None, :]
    head = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)[:, None]
    inside = (chunk * Q + q < length) & (head < heads)
    start = (batch * tl.cdiv(length, Q) + chunk) * heads
    steps += start * (8 * Q) + head * (8 * Q) + q
    parts += start * (8 * Q) + head * (8 * Q) + q
    through += start * 2 + head * 2
    out = (batch * length + chunk * Q) * (2 * heads) + q * (2 * heads) + head
    for side in tl.static_range(2):
        part = parts + side * (4 * Q)
        dt = tl.load(steps + side * (4 * Q) + 3 * Q, mask=inside, other=0.0)
        given = tl.load(part, mask=inside, other=0.0)
        given_later = tl.load(part + Q, mask=inside, other=0.0)
        gained = tl.load(part + 2 * Q, mask=inside, other=0.0)
        gained += tl.load(part + 3 * Q, mask=inside, other=0.0)
        past = tl.cumsum(gained - given * dt, 1, reverse=side == 0) - gained
        before = tl.cumsum(given_later * dt, 1, reverse=side == 1) - given_later * dt
        da_tile = past + before + tl.load(through + side, mask=head < heads, other=0.0)
        tl.store(ddt + out + side * heads, given + given_later, mask=inside)
        tl.store(da + out + side * heads, da_tile, mask=inside)
