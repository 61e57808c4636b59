"""Depthwise convolution and SiLU in Triton. Importing this module needs triton.

Legend: B batch, L length, C channels, K taps.
"""
# mypy: disable-error-code="no-untyped-def"

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, CHANNELS = 32, 128  # a program's tile
TILES = 8  # tiles of a program that sums the weight's gradient


@triton.jit
def convolve(x, weight, row, channel, length, channels, row_stride, STEP: tl.constexpr,
             LEFT: tl.constexpr, TAPS: tl.constexpr):  # fmt: skip
    """Sum over taps k of weight[:, k] x[row + STEP (k - LEFT)], float32; x is 0 outside."""
    total = tl.zeros([row.shape[0], channel.shape[0]], tl.float32)
    inside = channel < channels
    for k in tl.static_range(TAPS):
        source = row + STEP * (k - LEFT)
        mask = ((source >= 0) & (source < length))[:, None] & inside[None, :]
        tile = source[:, None].to(tl.int64) * row_stride + channel[None, :]
        w = tl.load(weight + channel * TAPS + k, mask=inside, other=0.0).to(tl.float32)
        total += tl.load(x + tile, mask=mask, other=0.0).to(tl.float32) * w[None, :]
    return total


@triton.jit(do_not_specialize=["length"])
def convolve_kernel(x, weight, bias, y, length, channels, x_strides, ACTIVATE: tl.constexpr,
                    STEP: tl.constexpr, LEFT: tl.constexpr, TAPS: tl.constexpr,
                    ROWS: tl.constexpr, CHANNELS: tl.constexpr):  # fmt: skip
    """The convolution; ACTIVATE adds bias and SiLU. Programs: rows, channels, batch."""
    batch = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    x += batch * x_strides[0]
    total = convolve(x, weight, row, channel, length, channels, x_strides[1], STEP, LEFT, TAPS)
    inside = channel < channels
    if ACTIVATE:
        total += tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)[None, :]
        total *= tl.sigmoid(total)
    tile = (batch * length + row[:, None]) * channels + channel[None, :]
    mask = (row < length)[:, None] & inside[None, :]
    tl.store(y + tile, total.to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["length"])
def gradients_kernel(dy, x, weight, bias, dsum, partial, length, channels, x_strides,
                     LEFT: tl.constexpr, TAPS: tl.constexpr, TAPS_PADDED: tl.constexpr,
                     TILES: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr):  # fmt: skip
    """dsum, the gradient before the SiLU, and a share of those of weight and bias.

    partial [B, spans of TILES tiles, TAPS + 1, C] float32; its last row is the bias's.
    Programs: spans, channels, batch.
    """
    span, batch = tl.program_id(0), tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    tap = tl.arange(0, TAPS_PADDED)[:, None]
    x += batch * x_strides[0]
    shift = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)[None, :]
    share = tl.zeros([TAPS_PADDED, CHANNELS], tl.float32)
    for t in range(TILES):
        row = (span * TILES + t) * ROWS + tl.arange(0, ROWS)
        total = shift + convolve(
            x, weight, row, channel, length, channels, x_strides[1], 1, LEFT, TAPS
        )
        gate = tl.sigmoid(total)
        tile = (batch * length + row[:, None]) * channels + channel[None, :]
        mask = (row < length)[:, None] & inside[None, :]
        grad = tl.load(dy + tile, mask=mask, other=0.0).to(tl.float32)
        grad *= gate * (1 + total * (1 - gate))
        tl.store(dsum + tile, grad.to(dsum.dtype.element_ty), mask=mask)
        for k in tl.static_range(TAPS):
            source = row + (k - LEFT)
            read = ((source >= 0) & (source < length))[:, None] & inside[None, :]
            source_tile = source[:, None].to(tl.int64) * x_strides[1] + channel[None, :]
            product = grad * tl.load(x + source_tile, mask=read, other=0.0).to(tl.float32)
            share += tl.where(tap == k, tl.sum(product, 0)[None, :], 0.0)
        share += tl.where(tap == TAPS, tl.sum(grad, 0)[None, :], 0.0)
    out = ((batch * tl.num_programs(0) + span) * (TAPS + 1) + tap) * channels + channel[None, :]
    tl.store(partial + out, share, mask=(tap <= TAPS) & inside[None, :])


def conv_silu(x: Tensor, weight: Tensor, bias: Tensor, left: int) -> Tensor:
    """SiLU(depthwise convolution + bias) along the length, as long as x; one rounding, at the end.

    Args:
        x: [batch, length, channels], any strides but the last, which is 1.
        weight: [channels, taps]; y_i takes weight[:, k] of x_{i + k - left}, zero outside x.
        bias: [channels].
        left: taps before the position itself.

    Returns:
        [batch, length, channels] in x's dtype, contiguous. Differentiable once in x, weight, bias.
    """
    return forward_op(x, weight, bias, left)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor, y: Tensor, *, step: int, left: int) -> None:
    batch, length, channels = y.shape
    grid = (triton.cdiv(length, ROWS), triton.cdiv(channels, CHANNELS), batch)
    with torch.cuda.device_of(x):
        convolve_kernel[grid](
            x,
            weight.contiguous(),
            bias,
            y,
            length,
            channels,
            x.stride(),
            ACTIVATE=step == 1,
            STEP=step,
            LEFT=left,
            TAPS=weight.shape[1],
            ROWS=ROWS,
            CHANNELS=CHANNELS,
        )


@torch.library.custom_op("statefilm::conv_silu", mutates_args=())
def forward_op(x: Tensor, weight: Tensor, bias: Tensor, left: int) -> Tensor:
    """See `conv_silu`."""
    y = x.new_empty(x.shape)
    if y.numel():
        x = x if x.stride(2) == 1 else x.contiguous()
        _convolve(x, weight, bias.contiguous(), y, step=1, left=left)
    return y


@torch.library.custom_op("statefilm::conv_silu_backward", mutates_args=())
def backward_op(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, left: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias, contiguous."""
    dx = x.new_empty(x.shape)
    if not x.numel():
        return dx, weight.new_zeros(weight.shape), bias.new_zeros(bias.shape)
    x = x if x.stride(2) == 1 else x.contiguous()
    batch, length, channels = x.shape
    taps = weight.shape[1]
    spans = triton.cdiv(length, ROWS * TILES)
    dsum = torch.empty_like(dx)
    partial = dx.new_empty(batch, spans, taps + 1, channels, dtype=torch.float32)
    with torch.cuda.device_of(x):
        gradients_kernel[(spans, triton.cdiv(channels, CHANNELS), batch)](
            dy.contiguous(),
            x,
            weight.contiguous(),
            bias.contiguous(),
            dsum,
            partial,
            length,
            channels,
            x.stride(),
            LEFT=left,
            TAPS=taps,
            TAPS_PADDED=triton.next_power_of_2(taps + 1),
            TILES=TILES,
            ROWS=ROWS,
            CHANNELS=CHANNELS,
        )
    _convolve(dsum, weight, bias, dx, step=-1, left=left)
    sums = partial.sum((0, 1))
    return dx, sums[:-1].T.contiguous().to(weight.dtype), sums[-1].to(bias.dtype, copy=True)


@forward_op.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, left: int) -> Tensor:
    return x.new_empty(x.shape)


@backward_op.register_fake
def _(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, left: int
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), bias.new_empty(bias.shape)


def _remember(ctx, inputs, output) -> None:
    *tensors, ctx.left = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, dy: Tensor):
    return (*backward_op(dy, *ctx.saved_tensors, ctx.left), None)


forward_op.register_autograd(_differentiate, setup_context=_remember)
