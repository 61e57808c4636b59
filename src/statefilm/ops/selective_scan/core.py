"""From two plain functions, forward and backward, to one differentiable op that compiles whole.

A core is the recurrence of `selective_scan`, which also returns what its backward begins from:

    core(u, dt, A, B, C, D, reverse) -> y, states

with u, dt [batch, length, dim], A [dim, state], B and C [batch, length, state], D [dim] or None.
dt, A, D and states are float32 (float64 for float64 u), B and C have the dtype of u. A walk goes
from the first token to the last, or the other way where `reverse`; it is cut into chunks.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

Core = Callable[
    [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, bool], tuple[Tensor, Tensor]
]
Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]
CoreBackward = Callable[
    [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, bool], Gradients
]


def new_states(u: Tensor, dt: Tensor, state: int, chunk: int) -> Tensor:
    """Room for the states that enter all chunks but the first: [batch, chunks - 1, state, dim]."""
    batch, length, dim = u.shape
    return dt.new_empty(batch, (length - 1) // chunk, state, dim)


def make_core(backend: str, chunk: int, forward: Core, backward: CoreBackward) -> Core:
    """Register `statefilm::selective_scan_<backend>` and its backward as custom ops.

    Args:
        backend: names the ops.
        chunk: tokens between two states that are kept.
        forward: the core; y is contiguous, with the shape and dtype of u, states as `new_states`.
        backward: (dy, states, *inputs) to the gradients of the inputs, contiguous, each with the
            shape and dtype of its input; of D None where D is.

    Returns:
        The op: it remembers its inputs and the states between chunks, is opaque to
        `torch.compile`, and has no second derivative.
    """
    name = f"statefilm::selective_scan_{backend}"

    @torch.library.custom_op(name, mutates_args=())
    def core(
        u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, reverse: bool
    ) -> tuple[Tensor, Tensor]:
        return forward(u, dt, A, B, C, D, reverse)

    @core.register_fake
    def _(
        u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, reverse: bool
    ) -> tuple[Tensor, Tensor]:
        return empty_like(u), new_states(u, dt, A.shape[1], chunk)

    @torch.library.custom_op(f"{name}_backward", mutates_args=())
    def core_backward(
        dy: Tensor,
        states: Tensor,
        u: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        reverse: bool,
    ) -> list[Tensor]:
        gradients = backward(dy, states, u, dt, A, B, C, D, reverse)
        return [g for g in gradients if g is not None]

    @core_backward.register_fake
    def _(
        dy: Tensor,
        states: Tensor,
        u: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        reverse: bool,
    ) -> list[Tensor]:
        return [empty_like(t) for t in (u, dt, A, B, C, *([] if D is None else [D]))]

    def remember(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
        *tensors, ctx.reverse = inputs
        ctx.save_for_backward(output[1], *tensors)
        ctx.set_materialize_grads(False)  # that of the states is None

    def differentiate(ctx, dy: Tensor | None, _):  # type: ignore[no-untyped-def]
        if dy is None:
            return (None,) * 7
        gradients = core_backward(dy, *ctx.saved_tensors, ctx.reverse)
        return (*gradients, *[None] * (7 - len(gradients)))

    core.register_autograd(differentiate, setup_context=remember)
    packet = getattr(torch.ops.statefilm, f"selective_scan_{backend}")
    register_flop_formula(packet)(_count)
    return core


def empty_like(tensor: Tensor) -> Tensor:
    """A contiguous tensor of the same shape, dtype and device."""
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def forward_flops(batch: int, length: int, dim: int, state: int) -> int:
    """Operations on states, two for a multiply-add: each decays, takes in and is read."""
    return 6 * batch * length * dim * state


def _count(u: torch.Size, dt: torch.Size, A: torch.Size, *_, **__) -> int:  # type: ignore[no-untyped-def]
    """What `torch.utils.flop_counter` adds for a call, from the shapes."""
    batch, length, dim = u
    return forward_flops(batch, length, dim, A[1])
