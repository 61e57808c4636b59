"""quasiseparable as matmuls over chunks: PyTorch alone, any device, any length, linear time.

Each chunk's Q x Q matrix holds the lower part, the diagonal and the upper part together, so one
product serves both directions; between chunks a state of each direction is carried. The backward
remembers no matrix but makes each again. Chunks are handled a segment at a time, so that their
matrices stay in the cache and never exist all at once.

Legend: B batch, L length, S chunks of a segment, Q positions of a chunk, H heads, G groups,
P head size, N state size, R = H / G * P.
"""

import torch
from torch import Tensor

from statefilm.ops.chunk_gradients import DirectionGradients
from statefilm.ops.chunking import Carrier, by_heads, spans
from statefilm.ops.quasiseparable.core import Gradients, make_core
from statefilm.ops.quasiseparable.segment import Segment


def forward(x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, D: Tensor | None) -> Tensor:
    """See `core.make_core`."""
    parts = [Segment(x, dt, a, B, C, span) for span in spans(x)]
    several = x.shape[1] > parts[0].span.size
    from_right: list[Tensor] = []
    if several:
        carry_b = Carrier(x, B, reverse=True)
        from_right = [carry_b(p.b.added(p.x_BSQHP), p.b.total) for p in reversed(parts)]
    carry_f = Carrier(x, B)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    for part in parts:
        matrix = part.matrix(part.decay().mul_(part.scores()), D)
        y_BSQHP = (matrix @ part.x_BSQHP.transpose(2, 3)).transpose(2, 3)
        if several:
            from_left = carry_f(part.f.added(part.x_BSQHP), part.f.total)
            for way, states in ((part.f, from_left), (part.b, from_right.pop())):
                carried = by_heads(way.C @ states, part.heads)
                y_BSQHP = torch.addcmul(y_BSQHP, carried, way.read.to(x.dtype)[..., None])
        part.span.put(y, y_BSQHP)
    return y


def backward(
    dy: Tensor, x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, D: Tensor | None
) -> Gradients:
    """See `core.make_core`."""
    parts = [Segment(x, dt, a, B, C, span) for span in spans(x)]
    several = x.shape[1] > parts[0].span.size
    contiguous = torch.contiguous_format
    dx, ddt, da, dB = (torch.empty_like(t, memory_format=contiguous) for t in (x, dt, a, B))
    dC = torch.zeros_like(C, memory_format=contiguous)  # the ends are never read
    dD = None if D is None else torch.empty_like(D, memory_format=contiguous)

    # States come from the left (f) and the right (b), the gradients of states the other way.
    from_right: list[tuple[Tensor, Tensor]] = []
    if several:
        states_b, gradients_f = Carrier(x, B, reverse=True), Carrier(x, B, reverse=True)
        for part in reversed(parts):
            state = states_b(part.b.added(part.x_BSQHP), part.b.total)
            gradient = gradients_f(part.f.asked(part.span.cut(dy)), part.f.total)
            from_right.append((state, gradient))
    states_f, gradients_b = Carrier(x, B), Carrier(x, B)
    for part in parts:
        span, dy_BSQHP = part.span, part.span.cut(dy)
        scores, decay = part.scores(), part.decay()
        product = decay * scores
        dx_BSQHP = (part.matrix(product, D).mT @ dy_BSQHP.transpose(2, 3)).transpose(2, 3)
        # Gradients of the matrix, then of its logarithm, then of the scores.
        d_matrix = dy_BSQHP.transpose(2, 3) @ part.x_BSQHP.permute(0, 1, 3, 4, 2)
        d_matrix = d_matrix.to(decay.dtype)
        if dD is not None:
            span.put(dD, d_matrix.diagonal(dim1=-2, dim2=-1).transpose(2, 3))
        d_log = product.mul_(d_matrix)
        d_scores = decay.mul_(d_matrix).unflatten(2, (B.shape[3], -1)).sum(3).to(x.dtype)
        f = DirectionGradients(part.f, d_scores.tril(-1), d_log.tril(-1))
        b = DirectionGradients(part.b, d_scores.triu(1), d_log.triu(1))
        if several:
            state_f = states_f(part.f.added(part.x_BSQHP), part.f.total)
            gradient_b = gradients_b(part.b.asked(dy_BSQHP), part.b.total)
            state_b, gradient_f = from_right.pop()
            dx_BSQHP = dx_BSQHP + f.through_states(part.x_BSQHP, dy_BSQHP, state_f, gradient_f)
            dx_BSQHP = dx_BSQHP + b.through_states(part.x_BSQHP, dy_BSQHP, state_b, gradient_b)
        span.put(dx, dx_BSQHP)
        for i, (way, shift) in enumerate(((f, -1), (b, 1))):
            span.put(dB[:, :, i], way.dB.transpose(2, 3))
            span.put(dC[:, :, i], way.dC.transpose(2, 3), shift)
            span.put(ddt[:, :, i], way.of_steps())
            span.put(da[:, :, i], way.of_decays(lag=1, reverse=bool(i)))
    return dx, ddt, da, dB, dC, dD


quasiseparable_chunked = make_core("chunked", forward, backward)
