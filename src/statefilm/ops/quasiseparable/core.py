"""From two plain functions, forward and backward, to one differentiable op that compiles whole.

A core multiplies by the matrix of `quasiseparable`, the log-decay of each step already formed:

    core(x, dt, a, B, C, D) -> y

with x [batch, length, heads, head_dim], dt and a [batch, length, 2, heads], where a = dt A <= 0,
B and C [batch, length, 2, groups, state] and D [batch, length, heads] or None.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from statefilm.ops.chunking import CHUNK_SIZE

Core = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None], Tensor]
Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]
CoreBackward = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None], Gradients]


def make_core(backend: str, forward: Core, backward: CoreBackward) -> Core:
    """Register `statefilm::quasiseparable_<backend>` and its backward as custom ops.

    Args:
        backend: names the ops.
        forward: the core; y is contiguous, with the shape and dtype of x.
        backward: (dy, *inputs) to the gradients of the inputs, contiguous, each with the shape and
            dtype of its input; of D None where D is.

    Returns:
        The op: it remembers only its inputs, is opaque to `torch.compile`, and has no second
        derivative.
    """
    name = f"statefilm::quasiseparable_{backend}"

    @torch.library.custom_op(name, mutates_args=())
    def core(
        x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None
    ) -> Tensor:
        return forward(x, dt, a, B, C, D)

    @core.register_fake
    def _(
        x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None
    ) -> Tensor:
        return torch.empty_like(x, memory_format=torch.contiguous_format)

    @torch.library.custom_op(f"{name}_backward", mutates_args=())
    def core_backward(
        dy: Tensor, x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, D: Tensor | None
    ) -> list[Tensor]:
        return [g for g in backward(dy, x, dt, a, B, C, D) if g is not None]

    @core_backward.register_fake
    def _(
        dy: Tensor, x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, D: Tensor | None
    ) -> list[Tensor]:
        inputs = (x, dt, a, B, C, *([] if D is None else [D]))
        return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in inputs]

    def remember(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(*inputs)

    def differentiate(ctx, dy: Tensor):  # type: ignore[no-untyped-def]
        gradients = core_backward(dy, *ctx.saved_tensors)
        return (*gradients, None) if len(gradients) == 5 else tuple(gradients)

    core.register_autograd(differentiate, setup_context=remember)
    packet = getattr(torch.ops.statefilm, f"quasiseparable_{backend}")
    register_flop_formula(packet)(_count)
    return core


def forward_flops(
    batch: int, length: int, heads: int, head_dim: int, groups: int, state: int
) -> int:
    """Operations of the products over chunks, two for a multiply-add.

    A last chunk that is not full counts for what it holds, although `chunked` fills it up.
    """
    size = min(CHUNK_SIZE, length)
    chunks, rest = divmod(length, size)
    inner = heads * head_dim
    inside = (chunks * size**2 + rest**2) * (2 * groups * state + inner)
    between = 4 * length * state * inner if length > size else 0
    return 2 * batch * (inside + between)


def _count(x: torch.Size, dt: torch.Size, a: torch.Size, B: torch.Size, *_, **__) -> int:  # type: ignore[no-untyped-def]
    """What `torch.utils.flop_counter` adds for a call, from the shapes."""
    return forward_flops(*x, *B[3:])
