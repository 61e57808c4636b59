"""quasiseparable as matmuls over chunks: PyTorch alone, any device, any length, linear time.

Each chunk's Q x Q matrix holds the lower part, the diagonal and the upper part together, so one
product serves both directions; between chunks a state of each direction is carried. The backward
remembers no matrix but makes each again. Chunks are handled a segment at a time, so that their
matrices stay in the cache and never exist all at once.

Legend: B batch, L length, S chunks of a segment, Q positions of a chunk, H heads, G groups,
P head size, N state size, R = H / G * P.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from statefilm.ops.dispatch import accumulation_dtype
from statefilm.ops.quasiseparable.core import Gradients, make_core
from statefilm.ops.quasiseparable.segment import Carrier, Direction, Segment, by_heads, spans


def forward(x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, D: Tensor | None) -> Tensor:
    """See `core.make_core`."""
    parts = [Segment(x, dt, a, B, C, span) for span in spans(x)]
    several = x.shape[1] > parts[0].span.size
    from_right: list[Tensor] = []
    if several:
        carry_b = Carrier(x, B, reverse=True)
        from_right = [carry_b(p.b.added(p.x_BSQHP), p.b.total) for p in reversed(parts)]
    carry_f = Carrier(x, B, reverse=False)
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
    states_f, gradients_b = Carrier(x, B, reverse=False), Carrier(x, B, reverse=False)
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
        f = _Gradients(part.f, d_scores.tril(-1), d_log.tril(-1))
        b = _Gradients(part.b, d_scores.triu(1), d_log.triu(1))
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
            span.put(da[:, :, i], way.of_decays(reverse=bool(i)))
    return dx, ddt, da, dB, dC, dD


class _Gradients:
    """What a direction of a segment learns; readers and sources are positions.

    Args:
        way: the direction.
        d_scores: [B, S, G, Q, Q], gradients of its scores, zero outside its triangle.
        d_log: [B, S, H, Q, Q], those of its matrix times the matrix.
    """

    def __init__(self, way: Direction, d_scores: Tensor, d_log: Tensor) -> None:
        self.way = way
        self.dC, self.dB = d_scores @ way.B, d_scores.mT @ way.C
        # What each reader takes and each source gives, in the chunk and beyond, [B, S, Q, H].
        self.taken, self.given = d_log.sum(-1).transpose(2, 3), d_log.sum(-2).transpose(2, 3)
        self.taken_from_state = self.given_to_state = torch.zeros_like(self.taken)
        self.through = self.taken.new_zeros(())

    def through_states(
        self, x_BSQHP: Tensor, dy_BSQHP: Tensor, state_BSGNR: Tensor, gradient_BSGNR: Tensor
    ) -> Tensor:
        """Add what passes through the state that enters a chunk and the gradient of that it leaves.

        Returns:
            This part of the gradient of x, [B, S, Q, H, P].
        """
        way, heads = self.way, x_BSQHP.shape[3]
        emitted, reading = way.emitted(x_BSQHP), way.reading(dy_BSQHP)
        self.dC = self.dC + reading @ state_BSGNR.mT
        self.dB = self.dB + emitted @ gradient_BSGNR.mT
        wanted = way.B @ gradient_BSGNR
        self.taken_from_state = _sum(by_heads(reading, heads), by_heads(way.C @ state_BSGNR, heads))
        self.given_to_state = _sum(by_heads(emitted, heads), by_heads(wanted, heads))
        passed = _sum(by_heads(state_BSGNR, heads), by_heads(gradient_BSGNR, heads)).sum(2)
        self.through = (way.total * passed)[:, :, None]
        return by_heads(wanted, heads) * way.emit.to(x_BSQHP.dtype)[..., None]

    def of_steps(self) -> Tensor:
        """Gradient of the step sizes as weights of the sources, [B, S, Q, H]."""
        return (self.given + self.given_to_state) / self.way.dt

    def of_decays(self, reverse: bool) -> Tensor:
        """Gradient of the log-decays, [B, S, Q, H].

        That of position t is the sum over all pairs of a source before t and a reader after it, in
        the direction's sense. Only what lies within one chunk is ever subtracted.
        """
        taken, given, beyond = (
            t.flip(2) if reverse else t
            for t in (self.taken + self.taken_from_state, self.given, self.given_to_state)
        )
        inside = F.pad(taken[:, :, 1:], (0, 0, 0, 1)) - given
        inside = inside.flip(2).cumsum(2).flip(2)
        outside = F.pad(beyond[:, :, :-1], (0, 0, 1, 0)).cumsum(2)
        gradient = inside + outside + self.through
        return gradient.flip(2) if reverse else gradient


def _sum(x_BSQHP: Tensor, y_BSQHP: Tensor) -> Tensor:
    """Inner products over P in float32 or wider."""
    acc = accumulation_dtype(x_BSQHP.dtype)
    return (x_BSQHP.to(acc) * y_BSQHP.to(acc)).sum(-1)


quasiseparable_chunked = make_core("chunked", forward, backward)
