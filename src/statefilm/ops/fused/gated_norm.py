"""RMSNorm(y) * SiLU(gate) in Triton. Importing this module needs triton."""
# mypy: disable-error-code="no-untyped-def"

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = 1024  # that share the rows of a backward pass


@triton.jit
def normalised(y, row, column, dim, row_stride, eps):
    """A row of y over its root mean square, float32, and one over that root."""
    values = tl.load(y + row * row_stride + column, mask=column < dim, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, 0) / dim + eps)
    return values * scale, scale


@triton.jit
def forward_kernel(y, gate, weight, out, dim, y_stride, gate_stride, eps, SIZE: tl.constexpr):
    """One row for each program."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, SIZE)
    inside = column < dim
    values, _ = normalised(y, row, column, dim, y_stride, eps)
    z = tl.load(gate + row * gate_stride + column, mask=inside, other=0.0).to(tl.float32)
    values *= tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    values *= z * tl.sigmoid(z)
    tl.store(out + row * dim + column, values.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows", "span"])
def backward_kernel(grad, y, gate, weight, dy, dgate, partial, rows, span, dim, y_stride,
                    gate_stride, eps, SIZE: tl.constexpr):  # fmt: skip
    """dy and dgate of `span` rows, and these rows' share of the weight's gradient, float32."""
    program = tl.program_id(0)
    column = tl.arange(0, SIZE)
    inside = column < dim
    w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    share = tl.zeros([SIZE], tl.float32)
    for index in range(program * span, tl.minimum((program + 1) * span, rows)):
        row = tl.cast(index, tl.int64)
        values, scale = normalised(y, row, column, dim, y_stride, eps)
        z = tl.load(gate + row * gate_stride + column, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(grad + row * dim + column, mask=inside, other=0.0).to(tl.float32)
        sigmoid = tl.sigmoid(z)
        share += g * values * z * sigmoid
        dz = g * values * w * sigmoid * (1 + z * (1 - sigmoid))
        tl.store(dgate + row * dim + column, dz.to(dgate.dtype.element_ty), mask=inside)
        g *= w * z * sigmoid
        g = scale * (g - values * (tl.sum(g * values, 0) / dim))
        tl.store(dy + row * dim + column, g.to(dy.dtype.element_ty), mask=inside)
    tl.store(partial + program.to(tl.int64) * dim + column, share, mask=inside)


def gated_norm(y: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm(y) * SiLU(gate) over the last axis, computed in float32.

    Args:
        y, gate: [..., dim], any strides but the last, which is 1.
        weight: [dim], scales the normalised y.
        eps: added to the mean square.

    Returns:
        [..., dim] in the gate's dtype, contiguous. Differentiable once in y, gate and weight.
    """
    return forward_op(y, gate, weight, eps)


@torch.library.custom_op("statefilm::gated_norm", mutates_args=())
def forward_op(y: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `gated_norm`."""
    out = gate.new_empty(gate.shape)
    y, gate = _rows(y), _rows(gate)
    if out.numel():
        rows, dim = y.shape
        with torch.cuda.device_of(y):
            forward_kernel[(rows,)](
                y,
                gate,
                weight.contiguous(),
                out,
                dim,
                y.stride(0),
                gate.stride(0),
                eps,
                **_launch(dim),
            )
    return out


@torch.library.custom_op("statefilm::gated_norm_backward", mutates_args=())
def backward_op(
    grad: Tensor, y: Tensor, gate: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of y, gate and weight, contiguous."""
    dy, dgate = y.new_empty(y.shape), gate.new_empty(gate.shape)
    y, gate = _rows(y), _rows(gate)
    rows, dim = y.shape
    if not y.numel():
        return dy, dgate, weight.new_zeros(weight.shape)
    span = triton.cdiv(rows, PROGRAMS)
    programs = triton.cdiv(rows, span)
    partial = y.new_empty(programs, dim, dtype=torch.float32)
    with torch.cuda.device_of(y):
        backward_kernel[(programs,)](
            grad.contiguous(),
            y,
            gate,
            weight.contiguous(),
            dy,
            dgate,
            partial,
            rows,
            span,
            dim,
            y.stride(0),
            gate.stride(0),
            eps,
            **_launch(dim),
        )
    return dy, dgate, partial.sum(0).to(weight.dtype)


def _rows(t: Tensor) -> Tensor:
    """[..., dim] as [rows, dim] with a contiguous last axis; a view where there is one."""
    t = t.reshape(-1, t.shape[-1])
    return t if t.stride(1) == 1 else t.contiguous()


def _launch(dim: int) -> dict[str, int]:
    """The padded width of a row, and warps so that a thread holds few of its elements."""
    size = triton.next_power_of_2(dim)
    return {"SIZE": size, "num_warps": min(max(size // 512, 1), 16)}


@forward_op.register_fake
def _(y: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    return gate.new_empty(gate.shape)


@backward_op.register_fake
def _(
    grad: Tensor, y: Tensor, gate: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return y.new_empty(y.shape), gate.new_empty(gate.shape), weight.new_empty(weight.shape)


def _remember(ctx, inputs, output) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, grad: Tensor):
    return (*backward_op(grad, *ctx.saved_tensors, ctx.eps), None)


forward_op.register_autograd(_differentiate, setup_context=_remember)
