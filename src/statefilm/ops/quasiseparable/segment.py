"""A run of chunks as the chunked form of quasiseparable sees it: what it reads, and its decays.

Legend: B batch, S chunks of the segment, Q positions of a chunk, H heads, P head size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from statefilm.ops.chunking import Direction, Span, per_head


class Segment:
    """The inputs of `core.make_core` over a span."""

    def __init__(self, x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, span: Span) -> None:
        self.span, self.heads = span, x.shape[2]
        self.x_BSQHP = span.cut(x)
        # Padding has x = 0; its dt is 1 so that the logarithm stays finite.
        tiny = torch.finfo(dt.dtype).tiny
        dt_f, dt_b = (span.cut(dt[:, :, i], pad=1.0).clamp_min(tiny) for i in (0, 1))
        # Log-decays from the chunk's start: `_in` with the position's own step, `_ex` without.
        self.f_in, self.b_in = (span.cut(a[:, :, i]).cumsum(2) for i in (0, 1))
        self.f_ex, self.b_ex = (F.pad(t[:, :, :-1], (0, 0, 1, 0)) for t in (self.f_in, self.b_in))
        f_last, b_last = self.f_in[:, :, -1:], self.b_in[:, :, -1:]
        self.f = Direction(
            span.cut(B[:, :, 0]).transpose(2, 3),
            span.cut(C[:, :, 0], shift=-1).transpose(2, 3),
            dt_f,
            emit=(f_last - self.f_in).exp() * dt_f,
            read=self.f_ex.exp(),
            total=f_last.exp().squeeze(2),
        )
        self.b = Direction(
            span.cut(B[:, :, 1]).transpose(2, 3),
            span.cut(C[:, :, 1], shift=1).transpose(2, 3),
            dt_b,
            emit=self.b_ex.exp() * dt_b,
            read=(b_last - self.b_in).exp(),
            total=b_last.exp().squeeze(2),
        )

    def scores(self) -> Tensor:
        """How readers (rows) see sources, [B, S, H, Q, Q]: earlier ones below, later ones above."""
        below = self.f.C @ self.f.B.mT
        mask = torch.ones_like(below[0, 0, 0], dtype=torch.bool).tril()
        scores = torch.where(mask, below, self.b.C @ self.b.B.mT)
        return per_head(scores, self.heads)

    def decay(self) -> Tensor:
        """Decay and step size from source to reader, [B, S, H, Q, Q] with a diagonal of zeros."""
        # A source's step size joins its log-decay: one exponential gives both.
        f_row, f_column = self.f_ex, self.f_in - self.f.dt.log()
        b_row, b_column = self.b_in, self.b_ex + self.b.dt.log()
        f_row, f_column, b_row, b_column = (
            t.transpose(2, 3) for t in (f_row, f_column, b_row, b_column)
        )
        size = self.span.size
        below = torch.ones(size, size, dtype=torch.bool, device=f_row.device).tril()
        log_decay = torch.where(
            below,
            f_row[..., :, None] - f_column[..., None, :],
            b_column[..., None, :] - b_row[..., :, None],
        )
        log_decay.diagonal(dim1=-2, dim2=-1).fill_(float("-inf"))
        return log_decay.exp_()

    def matrix(self, product_BSHQQ: Tensor, D: Tensor | None) -> Tensor:
        """Scores times decay in the dtype of x, D on its diagonal; may be the product itself."""
        matrix = product_BSHQQ.to(self.x_BSQHP.dtype)
        if D is not None:
            matrix.diagonal(dim1=-2, dim2=-1).copy_(self.span.cut(D).transpose(2, 3))
        return matrix
