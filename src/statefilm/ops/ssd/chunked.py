"""ssd as matmuls over chunks: PyTorch alone, any device, any length, linear time.

The backward remembers no matrix but makes each again. Chunks are handled a segment at a time, so
that their matrices stay in the cache and never exist all at once.

Legend: B batch, L length, S chunks of a segment, Q positions of a chunk, H heads, G groups,
P head size, N state size.
"""

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from statefilm.ops.chunk_gradients import DirectionGradients
from statefilm.ops.chunking import (
    CHUNK_SIZE,
    MIN_LOG_DECAY,
    Carrier,
    Direction,
    Span,
    by_heads,
    per_head,
    spans,
)
from statefilm.ops.dispatch import accumulation_dtype


def ssd_chunked(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See `ssd`; always returns the final state too."""
    acc = accumulation_dtype(x.dtype)
    dt = dt.to(acc)
    a = (dt * A.to(acc)).clamp_min(MIN_LOG_DECAY)
    initial = None if initial_state is None else initial_state.to(acc)
    y, final = _core(x, dt, a, B.to(x.dtype), C.to(x.dtype), initial)
    return y, final


class _Segment:
    """The inputs over a span, the log-decay `a` of each step [B, L, H] already formed."""

    def __init__(self, x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, span: Span) -> None:
        self.span, self.heads = span, x.shape[2]
        self.x_BSQHP = span.cut(x)
        # Padding has x = 0; its dt is 1 so that the logarithm stays finite.
        dt_BSQH = span.cut(dt, pad=1.0).clamp_min(torch.finfo(dt.dtype).tiny)
        self.log_BSQH = span.cut(a).cumsum(2)
        last = self.log_BSQH[:, :, -1:]
        self.way = Direction(
            span.cut(B).transpose(2, 3),
            span.cut(C).transpose(2, 3),
            dt_BSQH,
            emit=(last - self.log_BSQH).exp() * dt_BSQH,
            read=self.log_BSQH.exp(),
            total=last.exp().squeeze(2),
        )

    def scores(self) -> Tensor:
        """How readers (rows) see sources, [B, S, H, Q, Q]."""
        return per_head(self.way.C @ self.way.B.mT, self.heads)

    def decay(self) -> Tensor:
        """Decay and step size from source to reader, [B, S, H, Q, Q], zero above the diagonal."""
        # A source's step size joins its log-decay: one exponential gives both.
        row, column = self.log_BSQH, self.log_BSQH - self.way.dt.log()
        row, column = row.transpose(2, 3), column.transpose(2, 3)
        size = self.span.size
        above = torch.ones(size, size, dtype=torch.bool, device=row.device).triu(1)
        log_decay = row[..., :, None] - column[..., None, :]
        return log_decay.masked_fill_(above, float("-inf")).exp_()


@torch.library.custom_op("statefilm::ssd_chunked", mutates_args=())
def _core(
    x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, initial: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Output and final state."""
    parts = [_Segment(x, dt, a, B, C, span) for span in spans(x)]
    from_before = initial is not None or x.shape[1] > parts[0].span.size
    carry = Carrier(x, B, start=initial)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    for part in parts:
        matrix = part.decay().mul_(part.scores()).to(x.dtype)
        y_BSQHP = (matrix @ part.x_BSQHP.transpose(2, 3)).transpose(2, 3)
        states = carry(part.way.added(part.x_BSQHP), part.way.total)
        if from_before:
            carried = by_heads(part.way.C @ states, part.heads)
            y_BSQHP = torch.addcmul(y_BSQHP, carried, part.way.read.to(x.dtype)[..., None])
        part.span.put(y, y_BSQHP)
    return y, carry.by_heads()


@torch.library.custom_op("statefilm::ssd_chunked_backward", mutates_args=())
def _core_backward(
    dy: Tensor,
    d_final: Tensor,
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    initial: Tensor | None,
) -> list[Tensor]:
    """Gradients of x, dt (as weights of the sources), a, B, C and the initial state."""
    parts = [_Segment(x, dt, a, B, C, span) for span in spans(x)]
    dx, ddt, da, dB, dC = (
        torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, dt, a, B, C)
    )
    carry_gradient = Carrier(x, B, reverse=True, start=d_final)
    from_right = [
        carry_gradient(part.way.asked(part.span.cut(dy)), part.way.total)
        for part in reversed(parts)
    ]
    carry_state = Carrier(x, B, start=initial)
    for part in parts:
        span, dy_BSQHP = part.span, part.span.cut(dy)
        decay = part.decay()
        product = decay * part.scores()
        dx_BSQHP = (product.to(x.dtype).mT @ dy_BSQHP.transpose(2, 3)).transpose(2, 3)
        d_matrix = dy_BSQHP.transpose(2, 3) @ part.x_BSQHP.permute(0, 1, 3, 4, 2)
        d_matrix = d_matrix.to(decay.dtype)
        d_scores = (decay * d_matrix).unflatten(2, (B.shape[2], -1)).sum(3).to(x.dtype)
        way = DirectionGradients(part.way, d_scores, product.mul_(d_matrix))
        states = carry_state(part.way.added(part.x_BSQHP), part.way.total)
        dx_BSQHP = dx_BSQHP + way.through_states(part.x_BSQHP, dy_BSQHP, states, from_right.pop())
        span.put(dx, dx_BSQHP)
        span.put(dB, way.dB.transpose(2, 3))
        span.put(dC, way.dC.transpose(2, 3))
        span.put(ddt, way.of_steps())
        span.put(da, way.of_decays(lag=0))
    gradients = [dx, ddt, da, dB, dC]
    return gradients if initial is None else [*gradients, carry_gradient.by_heads()]


@_core.register_fake
def _(
    x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, initial: Tensor | None
) -> tuple[Tensor, Tensor]:
    batch, _, heads, head_dim = x.shape
    final = dt.new_empty(batch, heads, head_dim, B.shape[3])
    return torch.empty_like(x, memory_format=torch.contiguous_format), final


@_core_backward.register_fake
def _(
    dy: Tensor,
    d_final: Tensor,
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    B: Tensor,
    C: Tensor,
    initial: Tensor | None,
) -> list[Tensor]:
    contiguous = torch.contiguous_format
    gradients = [torch.empty_like(t, memory_format=contiguous) for t in (x, dt, a, B, C)]
    return gradients if initial is None else [*gradients, torch.empty_like(d_final)]


def _remember(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, dy: Tensor, d_final: Tensor):  # type: ignore[no-untyped-def]
    inputs = ctx.saved_tensors  # once: under checkpointing a second read finds nothing
    gradients = _core_backward(dy, d_final, *inputs)
    return (*gradients, None) if inputs[5] is None else tuple(gradients)


_core.register_autograd(_differentiate, setup_context=_remember)


def forward_flops(
    batch: int,
    length: int,
    heads: int,
    head_dim: int,
    groups: int,
    state: int,
    initial: bool = False,
) -> int:
    """Operations of the products over chunks, two for a multiply-add.

    A last chunk that is not full counts for what it holds, although it is filled up. Of a single
    chunk a state is made, but read only where there is an `initial` one.
    """
    size = min(CHUNK_SIZE, length)
    chunks, rest = divmod(length, size)
    inner = heads * head_dim
    inside = (chunks * size**2 + rest**2) * (groups * state + inner)
    between = (1 + (initial or length > size)) * length * state * inner
    return 2 * batch * (inside + between)


@register_flop_formula(torch.ops.statefilm.ssd_chunked)
def _count(  # type: ignore[no-untyped-def]
    x: torch.Size,
    dt: torch.Size,
    a: torch.Size,
    B: torch.Size,
    C: torch.Size,
    initial: torch.Size | None,
    *_,
    **__,
) -> int:
    """What `torch.utils.flop_counter` adds for a call, from the shapes."""
    batch, length, heads, head_dim = x
    return forward_flops(batch, length, heads, head_dim, B[2], B[3], initial is not None)
