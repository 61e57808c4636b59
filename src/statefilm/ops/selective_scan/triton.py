"""selective_scan as Triton kernels for CUDA devices, with its gradient.

Importing this module needs triton. A program walks along the sequence with the states of a block of
channels, a [N, BLOCK] tile. Going back it makes the states of a chunk again from the one that
enters and puts them into memory of its own; programs are few and take several rows each, so that
this memory does not grow with the batch. `u`, `dy`, `B` and `C` have any strides but the last,
which is 1; all else is contiguous.
"""
# mypy: disable-error-code="no-untyped-def"

import torch
import triton
import triton.language as tl
from torch import Tensor

from statefilm.ops.selective_scan.core import Gradients, empty_like, make_core, new_states

CHUNK, MAX_STATE = 32, 128
BLOCK, WARPS = 32, 1  # a warp alone meets no barrier
# Programs that fill a large device. Not asked of the device: it would change the order of sums.
PROGRAMS = 2048
LOG2E = tl.constexpr(1.4426950408889634)  # exp2 is one instruction


@triton.jit
def place(step, length, REVERSE: tl.constexpr):
    """The position of a step of the walk, in 64 bits."""
    return tl.cast(length - 1 - step if REVERSE else step, tl.int64)


@triton.jit
def load_row(base, index, mask):
    return tl.load(base + index, mask=mask, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["length", "chunks"])
def forward_kernel(u, dt, A, B, C, D, y, states, length, chunks, dim, state, u_strides, B_strides,
                   C_strides, REVERSE: tl.constexpr, HAS_D: tl.constexpr, CHUNK: tl.constexpr,
                   N: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """y and the states between chunks. Programs: row of the batch, block of channels."""
    row = tl.program_id(0).to(tl.int64)
    d, n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, N)
    is_channel, is_state = d < dim, n < state
    tile_mask = is_state[:, None] & is_channel[None, :]
    rates = load_row(A, d[None, :] * state + n[:, None], tile_mask) * LOG2E
    if HAS_D:
        skip = load_row(D, d, is_channel)
    u += row * u_strides[0]
    B += row * B_strides[0]
    C += row * C_strides[0]
    tile = n[:, None] * dim + d[None, :]
    states += row * (chunks - 1) * state * dim
    h = tl.zeros([N, BLOCK], tl.float32)
    for chunk in range(chunks):
        if chunk > 0:
            kept = states + tl.cast(chunk - 1, tl.int64) * state * dim
            tl.store(kept + tile, h, mask=tile_mask)
        for step in range(chunk * CHUNK, tl.minimum(chunk * CHUNK + CHUNK, length)):
            at = place(step, length, REVERSE)
            out = (row * length + at) * dim + d
            dt_t = load_row(dt, out, is_channel)
            u_t = load_row(u, at * u_strides[1] + d, is_channel)
            b = load_row(B, at * B_strides[1] + n, is_state)
            c = load_row(C, at * C_strides[1] + n, is_state)
            h = h * tl.exp2(dt_t[None, :] * rates) + (dt_t * u_t)[None, :] * b[:, None]
            y_t = tl.sum(h * c[:, None], 0)
            if HAS_D:
                y_t += skip * u_t
            tl.store(y + out, y_t.to(y.dtype.element_ty), mask=is_channel)


@triton.jit(do_not_specialize=["batch", "rows", "length", "chunks"])
def backward_kernel(dy, u, dt, A, B, C, D, states, scratch, du, ddt, dA, dB, dC, dD, batch, rows,
                    length, chunks, dim, state, dy_strides, u_strides, B_strides, C_strides,
                    REVERSE: tl.constexpr, HAS_D: tl.constexpr, CHUNK: tl.constexpr,
                    N: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Gradients of `rows` rows of the batch for a block of channels, and the shares of sums.

    Shares: dA [groups of rows, dim, state], dD [groups, dim], dB and dC [batch, blocks, length,
    state], float32. scratch [groups, blocks, CHUNK, N, BLOCK] float32.
    Programs: group of rows, block of channels.
    """
    group, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    blocks = tl.num_programs(1)
    lane, n = tl.arange(0, BLOCK), tl.arange(0, N)
    d = block * BLOCK + lane
    is_channel, is_state = d < dim, n < state
    tile_mask = is_state[:, None] & is_channel[None, :]
    rates = load_row(A, d[None, :] * state + n[:, None], tile_mask)
    if HAS_D:
        skip = load_row(D, d, is_channel)
    tile = n[:, None] * dim + d[None, :]
    scratch += (group * blocks + block) * (CHUNK * N * BLOCK) + n[:, None] * BLOCK + lane[None, :]
    share_A = tl.zeros([N, BLOCK], tl.float32)
    share_D = tl.zeros([BLOCK], tl.float32)
    for index in range(group * rows, tl.minimum((group + 1) * rows, batch)):
        row = tl.cast(index, tl.int64)
        gradient = tl.zeros([N, BLOCK], tl.float32)
        for turn in range(chunks):
            chunk = chunks - 1 - turn
            start = chunk * CHUNK
            stop = tl.minimum(start + CHUNK, length)
            h = tl.zeros([N, BLOCK], tl.float32)
            if chunk > 0:
                kept = states + (row * (chunks - 1) + chunk - 1) * state * dim
                h = tl.load(kept + tile, mask=tile_mask, other=0.0)
            for step in range(start, stop):
                at = place(step, length, REVERSE)
                dt_t = load_row(dt, (row * length + at) * dim + d, is_channel)
                u_t = load_row(u, row * u_strides[0] + at * u_strides[1] + d, is_channel)
                b = load_row(B, row * B_strides[0] + at * B_strides[1] + n, is_state)
                tl.store(scratch + (step - start) * (N * BLOCK), h)
                decay = tl.exp2(dt_t[None, :] * (rates * LOG2E))
                h = h * decay + (dt_t * u_t)[None, :] * b[:, None]
            tl.debug_barrier()  # what one thread wrote another may read
            for back in range(stop - start):
                step = stop - 1 - back
                at = place(step, length, REVERSE)
                out = (row * length + at) * dim + d
                dt_t = load_row(dt, out, is_channel)
                u_t = load_row(u, row * u_strides[0] + at * u_strides[1] + d, is_channel)
                dy_t = load_row(dy, row * dy_strides[0] + at * dy_strides[1] + d, is_channel)
                b = load_row(B, row * B_strides[0] + at * B_strides[1] + n, is_state)
                c = load_row(C, row * C_strides[0] + at * C_strides[1] + n, is_state)
                decay = tl.exp2(dt_t[None, :] * (rates * LOG2E))
                before = tl.load(scratch + (step - start) * (N * BLOCK)) * decay
                added = dt_t * u_t
                gradient += dy_t[None, :] * c[:, None]
                d_log = gradient * before
                shared = ((row * blocks + block) * length + at) * state + n
                h = before + added[None, :] * b[:, None]
                tl.store(dC + shared, tl.sum(dy_t[None, :] * h, 1), mask=is_state)
                tl.store(dB + shared, tl.sum(gradient * added[None, :], 1), mask=is_state)
                d_added = tl.sum(gradient * b[:, None], 0)
                ddt_t = d_added * u_t + tl.sum(d_log * rates, 0)
                du_t = d_added * dt_t
                if HAS_D:
                    du_t += skip * dy_t
                    share_D += dy_t * u_t
                share_A += d_log * dt_t[None, :]
                gradient *= decay
                tl.store(ddt + out, ddt_t, mask=is_channel)
                tl.store(du + out, du_t.to(du.dtype.element_ty), mask=is_channel)
            tl.debug_barrier()  # all has been read before the next chunk is written
    shares = (group * dim + d[None, :]) * state + n[:, None]
    tl.store(dA + shares, share_A, mask=tile_mask)
    if HAS_D:
        tl.store(dD + group * dim + d, share_D, mask=is_channel)


def interpreted() -> bool:
    """Whether the kernels run on the CPU in Triton's interpreter."""
    return not isinstance(forward_kernel, triton.JITFunction)


def refusal(device: str, dtype: torch.dtype, state: int) -> str:
    """Why the kernels do not take inputs of such a device, dtype and size, "" if they do."""
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"does not take {dtype}; valid: float32, float16, bfloat16"
    if not 1 <= state <= MAX_STATE:
        return f"does not take state {state}; valid: 1 to {MAX_STATE}"
    if device != "cuda" and not interpreted():
        return f"does not run on {device}; valid: cuda"
    return ""


def forward(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """See `core.make_core`."""
    (batch, length, dim), state = u.shape, A.shape[1]
    y, states = empty_like(u), new_states(u, dt, state, CHUNK)
    if u.numel() == 0:
        return y, states
    u, B, C = _rows(u), _rows(B), _rows(C)
    with torch.cuda.device_of(u):
        forward_kernel[(batch, triton.cdiv(dim, BLOCK))](
            u,
            dt.contiguous(),
            A.contiguous(),
            B,
            C,
            u if D is None else D.contiguous(),
            y,
            states,
            length,
            triton.cdiv(length, CHUNK),
            dim,
            state,
            u.stride(),
            B.stride(),
            C.stride(),
            HAS_D=D is not None,
            **_sizes(state, reverse),
        )
    return y, states


def backward(
    dy: Tensor,
    states: Tensor,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    reverse: bool,
) -> Gradients:
    """See `core.make_core`."""
    (batch, length, dim), state = u.shape, A.shape[1]
    du, ddt = empty_like(u), empty_like(dt)
    if u.numel() == 0:
        empty = torch.zeros_like
        return du, ddt, empty(A), empty(B), empty(C), None if D is None else empty(D)
    blocks, sizes = triton.cdiv(dim, BLOCK), _sizes(state, reverse)
    rows = triton.cdiv(batch, triton.cdiv(PROGRAMS, blocks))
    groups = triton.cdiv(batch, rows)
    scratch = dt.new_empty(groups * blocks, CHUNK, sizes["N"], BLOCK)
    dA, dD = dt.new_empty(groups, dim, state), dt.new_empty(groups, dim)
    dB, dC = dt.new_empty(2, batch, blocks, length, state)
    u, B_rows, C_rows, dy = _rows(u), _rows(B), _rows(C), _rows(dy)
    with torch.cuda.device_of(u):
        backward_kernel[(groups, blocks)](
            dy,
            u,
            dt.contiguous(),
            A.contiguous(),
            B_rows,
            C_rows,
            u if D is None else D.contiguous(),
            states,
            scratch,
            du,
            ddt,
            dA,
            dB,
            dC,
            dD,
            batch,
            rows,
            length,
            triton.cdiv(length, CHUNK),
            dim,
            state,
            dy.stride(),
            u.stride(),
            B_rows.stride(),
            C_rows.stride(),
            HAS_D=D is not None,
            **sizes,
        )
    dB, dC = dB.sum(1).to(B.dtype), dC.sum(1).to(C.dtype)
    return du, ddt, dA.sum(0), dB, dC, None if D is None else dD.sum(0)


def _sizes(state: int, reverse: bool) -> dict[str, int]:
    """What the kernels are compiled for, and their warps."""
    n = triton.next_power_of_2(state)
    return {"REVERSE": reverse, "CHUNK": CHUNK, "N": n, "BLOCK": BLOCK, "num_warps": WARPS}


def _rows(t: Tensor) -> Tensor:
    """t itself if its last axis is contiguous, else a copy."""
    return t if t.stride(-1) == 1 else t.contiguous()


selective_scan_triton = make_core("triton", CHUNK, forward, backward)
