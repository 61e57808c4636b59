"""quasiseparable's core as Triton kernels for CUDA devices, with its gradient.

Nothing but the inputs is kept for the backward pass. Importing this module needs triton.

Legend: B batch, L length, K chunks, Q positions of a chunk, H heads, G groups, P head size,
N state size.
"""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from statefilm.ops.quasiseparable.core import Gradients, make_core
from statefilm.ops.quasiseparable.triton_backward import decays_kernel, keys_kernel, tokens_kernel
from statefilm.ops.quasiseparable.triton_forward import output_kernel, states_kernel, steps_kernel

SIZES = (16, 32, 64, 128)
# Programs that fill a large device. Not asked of the device: it would change the order of sums.
PROGRAMS = 1024
BLOCK_H = 16  # heads of a program that goes through dt and a


class Tiles(NamedTuple):
    """Positions of a chunk, and warps and pipeline stages of the kernels."""

    chunk: int
    output: dict[str, int]
    tokens: dict[str, int]
    keys: dict[str, int]


def interpreted() -> bool:
    """Whether the kernels run on the CPU in Triton's interpreter."""
    return not isinstance(states_kernel, triton.JITFunction)


def refusal(device: str, dtype: torch.dtype, head_dim: int, state: int) -> str:
    """Why the kernels do not take inputs of such a device, dtype and sizes, "" if they do."""
    if dtype not in (torch.float32, torch.bfloat16):
        return f"does not take {dtype}; valid: float32, bfloat16"
    if head_dim not in SIZES or state not in SIZES:
        return f"does not take head_dim {head_dim} with state {state}; valid: {SIZES}"
    if device != "cuda":
        return "" if interpreted() else f"does not run on {device}; valid: cuda"
    if torch.cuda.get_device_capability()[0] < 8:
        return f"does not run on {torch.cuda.get_device_name()}; valid: compute capability >= 8.0"
    return ""


def quasiseparable_triton(
    x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None
) -> Tensor:
    """The quasiseparable product of `quasiseparable`, with its log-decays given.

    Args:
        x: [batch, length, heads, head_dim], float32 or bfloat16.
        dt: [batch, length, 2, heads], float32 step sizes; axis 2: forward, backward.
        a: [batch, length, 2, heads], float32 log-decays <= 0 (dt A); independent of dt here.
        B, C: [batch, length, 2, groups, state] in x's dtype.
        D: [batch, length, heads], the diagonal in any floating dtype; zero when None.

    Returns:
        y with the shape and dtype of x. Differentiable once in all inputs, bit for bit the same
        in each run.

    Raises:
        ValueError: a dtype, size or device that the kernels do not cover (see `refusal`).
    """
    if why := refusal(x.device.type, x.dtype, x.shape[3], B.shape[4]):
        raise ValueError(f"quasiseparable: the triton backend {why}")
    if interpreted() and x.dtype == torch.bfloat16:
        # The interpreter multiplies matrices of bfloat16 as if their bits were integers.
        return quasiseparable_triton(x.float(), dt, a, B.float(), C.float(), D).to(x.dtype)
    return _core(x, dt, a, B, C, D)


def _forward(x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, D: Tensor | None) -> Tensor:
    y = x.new_empty(x.shape)
    if y.numel() == 0:
        return y
    x, B, C = _rows(x), _rows(B), _rows(C)
    tiles = _tiles(x, B.shape[4])
    with torch.cuda.device_of(x):
        steps = _steps(dt, a, tiles.chunk)
        states, _ = _states(x, None, B, C, steps, tiles)
        blocks, numbers, sizes = _cut(x, B, tiles)
        output_kernel[(steps.shape[1], B.shape[3] * blocks, x.shape[0])](
            x,
            B,
            C,
            x if D is None else D.contiguous(),
            steps,
            states,
            y,
            *numbers,
            x.stride(),
            B.stride(),
            C.stride(),
            HAS_D=D is not None,
            **sizes,
            **tiles.output,
        )
    return y


def _backward(
    dy: Tensor, x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, D: Tensor | None
) -> Gradients:
    dx, ddt, da, dB = (t.new_empty(t.shape) for t in (x, dt, a, B))
    dC = C.new_zeros(C.shape)  # two of its rows belong to no reader
    dD = None if D is None else D.new_empty(D.shape)
    if x.numel() == 0:
        return dx, ddt, da, dB, dC, dD
    x, B, C, dy = _rows(x), _rows(B), _rows(C), dy.contiguous()
    batch, length, heads, _ = x.shape
    groups, tiles = B.shape[3], _tiles(x, B.shape[4])
    strides = x.stride(), B.stride(), C.stride()
    with torch.cuda.device_of(x):
        steps = _steps(dt, a, tiles.chunk)
        states, gradients = _states(x, dy, B, C, steps, tiles)
        chunks = steps.shape[1]
        blocks, numbers, sizes = _cut(x, B, tiles)
        dscores = steps.new_empty(batch, chunks, groups, blocks, tiles.chunk, tiles.chunk)
        parts = torch.empty_like(steps)
        through = steps.new_empty(batch, chunks, heads, 2)
        tokens_kernel[(chunks, groups * blocks, batch)](
            dy,
            x,
            B,
            C,
            x if D is None else D.contiguous(),
            steps,
            gradients,
            dx,
            dx if dD is None else dD,
            dscores,
            parts,
            *numbers,
            *strides,
            HAS_D=D is not None,
            **sizes,
            **tiles.tokens,
        )
        keys_kernel[(chunks * groups * 2, batch)](
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
            *strides,
            **sizes,
            **tiles.keys,
        )
        decays_kernel[_per_head(dt, tiles.chunk)](
            steps, parts, through, ddt, da, length, heads, Q=tiles.chunk, BLOCK_H=BLOCK_H
        )
    return dx, ddt, da, dB, dC, dD


_core = make_core("triton", _forward, _backward)


def _per_head(dt: Tensor, size: int) -> tuple[int, int, int]:
    """The grid of the kernels that go through dt and a: chunks, blocks of heads, batch."""
    batch, length, _, heads = dt.shape
    return triton.cdiv(length, size), triton.cdiv(heads, BLOCK_H), batch


def _steps(dt: Tensor, a: Tensor, size: int) -> Tensor:
    """Decays and step sizes by chunk: [B, K, H, 2, 4, Q], see `steps_kernel`."""
    batch, length, _, heads = dt.shape
    steps = dt.new_empty(batch, triton.cdiv(length, size), heads, 2, 4, size)
    steps_kernel[_per_head(dt, size)](
        dt.contiguous(), a.contiguous(), steps, length, heads, Q=size, BLOCK_H=BLOCK_H
    )
    return steps


def _states(
    x: Tensor, dy: Tensor | None, B: Tensor, C: Tensor, steps: Tensor, tiles: Tiles
) -> tuple[Tensor, Tensor]:
    """The states that enter each chunk [B, K, H, 2, N, P] and, given dy, those of the gradient.

    Carried in float32, stored in x's dtype: matrix products read them.
    """
    batch, length, heads, head_dim = x.shape
    groups, state = B.shape[3:]
    states = x.new_empty(*steps.shape[:4], state, head_dim)
    gradients = states if dy is None else torch.empty_like(states)
    kinds = 2 if dy is None else 4
    # Columns of a state are independent: fewer for each program when there are few programs.
    columns = min(64 if kinds * heads * batch > 256 else 32, head_dim)
    states_kernel[(kinds * (head_dim // columns), heads, batch)](
        x,
        x if dy is None else dy,
        B,
        C,
        steps,
        states,
        gradients,
        length,
        heads,
        heads // groups,
        x.stride(),
        B.stride(),
        C.stride(),
        GRADIENTS=dy is not None,
        P=head_dim,
        N=state,
        Q=tiles.chunk,
        BLOCK_P=columns,
        num_warps=4,
        num_stages=3,
    )
    return states, gradients


def _tiles(x: Tensor, state: int) -> Tiles:
    """The cut of the work for x's dtype and these sizes.

    A chunk of 64 rows is one warpgroup's tile of the matrix units; float32 goes without them, and
    its operands fill the registers.
    """
    wide = max(x.shape[3], state) > 64
    if x.dtype == torch.float32:
        chunk, warps, stages = (16, 16, 1) if wide else (32, 8, 1)
    else:
        chunk, warps, stages = (64, 8, 1) if wide else (64, 4, 2)
    launch = {"num_warps": warps, "num_stages": stages}
    return Tiles(chunk, launch, launch, launch)


def _cut(
    x: Tensor, B: Tensor, tiles: Tiles
) -> tuple[int, tuple[int, int, int, int], dict[str, int]]:
    """The work of the kernels whose programs run through a block of a group's heads.

    Returns the blocks of a group, as many as it takes for PROGRAMS; the kernels' numbers: length,
    heads, heads of a group, heads of a block; their sizes.
    """
    batch, length, heads, head_dim = x.shape
    groups, state = B.shape[3:]
    group_heads = heads // groups
    others = batch * triton.cdiv(length, tiles.chunk) * groups
    block_heads = triton.cdiv(group_heads, min(group_heads, triton.cdiv(PROGRAMS, others)))
    numbers = length, heads, group_heads, block_heads
    sizes = {"P": head_dim, "N": state, "Q": tiles.chunk}
    return triton.cdiv(group_heads, block_heads), numbers, sizes


def _rows(t: Tensor) -> Tensor:
    """t itself if its last axis is contiguous, else a copy."""
    return t if t.stride(-1) == 1 else t.contiguous()
