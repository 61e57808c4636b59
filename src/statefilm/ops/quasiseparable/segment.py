"""A run of chunks as the chunked form of quasiseparable sees it: what it reads, and its decays.

Legend: B batch, L length, S chunks of the segment, Q positions of a chunk, H heads, G groups,
P head size, N state size, R = H / G * P.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from statefilm.ops.chunking import CHUNK_SIZE
from statefilm.ops.dispatch import accumulation_dtype

# Entries of a segment's matrices: 2 MB stay in a core's cache; GPUs want large launches.
ENTRIES = {"cpu": 2**19}
ENTRIES_ELSEWHERE = 2**26


@dataclass(frozen=True, slots=True)
class Span:
    """The positions `start` to `stop` of whole chunks of `size`; the last may exceed the length."""

    start: int
    stop: int
    size: int

    def cut(self, x_BLX: Tensor, shift: int = 0, pad: float = 0.0) -> Tensor:
        """The rows, read `shift` positions further on, [B, S, Q, *]; `pad` outside the sequence."""
        start, stop, length = self.start + shift, self.stop + shift, x_BLX.shape[1]
        rows = x_BLX[:, max(start, 0) : max(min(stop, length), 0)]
        before = max(-start, 0)
        after = stop - start - before - rows.shape[1]
        if before or after:
            rows = F.pad(rows, [0, 0] * (rows.dim() - 2) + [before, after], value=pad)
        return rows.unflatten(1, (-1, self.size))

    def put(self, out_BLX: Tensor, value_BSQX: Tensor, shift: int = 0) -> None:
        """Write rows to where `cut` reads them; those outside the sequence are dropped."""
        start, stop = self.start + shift, min(self.stop + shift, out_BLX.shape[1])
        if stop > max(start, 0):
            rows = value_BSQX.flatten(1, 2)
            out_BLX[:, max(start, 0) : stop] = rows[:, max(-start, 0) : stop - start]


def spans(x: Tensor) -> list[Span]:
    """The segments of values [B, L, H, P], first to last."""
    batch, length, heads, _ = x.shape
    size = min(CHUNK_SIZE, length)
    entries = ENTRIES.get(x.device.type, ENTRIES_ELSEWHERE)
    step = size * max(1, entries // (batch * heads * size * size))
    end = -(-length // size) * size
    return [Span(start, min(start + step, end), size) for start in range(0, end, step)]


@dataclass(frozen=True, slots=True)
class Direction:
    """One direction of a segment.

    Attributes:
        B, C: [B, S, G, Q, N], C shifted to the position that reads.
        dt, emit, read: [B, S, Q, H], step sizes and the decays from a source (its step size
            included) to where its chunk is left, and from where a chunk is entered to a reader.
        total: [B, S, H], the decay through a whole chunk.
    """

    B: Tensor
    C: Tensor
    dt: Tensor
    emit: Tensor
    read: Tensor
    total: Tensor

    def emitted(self, x_BSQHP: Tensor) -> Tensor:
        """Values as they leave their chunk, [B, S, G, Q, R]."""
        return _by_groups(x_BSQHP, self.emit, self.B.shape[2])

    def reading(self, dy_BSQHP: Tensor) -> Tensor:
        """Gradients of the outputs as they enter their chunk, [B, S, G, Q, R]."""
        return _by_groups(dy_BSQHP, self.read, self.B.shape[2])

    def added(self, x_BSQHP: Tensor) -> Tensor:
        """What each chunk adds to the state, [B, S, G, N, R]."""
        return self.B.mT @ self.emitted(x_BSQHP)

    def asked(self, dy_BSQHP: Tensor) -> Tensor:
        """What each chunk adds to the gradient of the state that enters it, [B, S, G, N, R]."""
        return self.C.mT @ self.reading(dy_BSQHP)


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
        groups = scores.shape[2]
        if groups == 1:
            return scores.expand(-1, -1, self.heads, -1, -1)
        return scores.repeat_interleave(self.heads // groups, dim=2)

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


class Carrier:
    """A state [B, G, N, R] carried from chunk to chunk in float32 or wider, zero at the start.

    Args:
        x, B: the core's inputs; they say the shape, and the dtype in which states are given out.
        reverse: whether chunks come last to first.
    """

    def __init__(self, x: Tensor, B: Tensor, reverse: bool) -> None:
        batch, _, heads, head_dim = x.shape
        groups, state = B.shape[3:]
        shape = (batch, groups, state, heads // groups * head_dim)
        self.state = x.new_zeros(shape, dtype=accumulation_dtype(x.dtype))
        self.dtype, self.head_dim, self.reverse = x.dtype, head_dim, reverse

    def __call__(self, added_BSGNR: Tensor, total_BSH: Tensor) -> Tensor:
        """The state that enters each chunk, [B, S, G, N, R]; then the chunk decays it and adds."""
        decay = total_BSH.unflatten(2, (self.state.shape[1], -1))
        decay = decay.repeat_interleave(self.head_dim, dim=3)[:, :, :, None]
        added_BSGNR = added_BSGNR.to(self.state.dtype)
        entering = torch.empty_like(added_BSGNR, dtype=self.dtype)
        order = range(added_BSGNR.shape[1])
        for k in reversed(order) if self.reverse else order:
            entering[:, k] = self.state
            self.state = torch.addcmul(added_BSGNR[:, k], self.state, decay[:, k])
        return entering


def by_heads(x_BSGQR: Tensor, heads: int) -> Tensor:
    """[B, S, G, Q, R] -> [B, S, Q, H, P]."""
    return x_BSGQR.transpose(2, 3).flatten(3).unflatten(3, (heads, -1))


def _by_groups(x_BSQHP: Tensor, factor_BSQH: Tensor, groups: int) -> Tensor:
    """x times a factor of each position and head, [B, S, G, Q, R]."""
    scaled = x_BSQHP * factor_BSQH.to(x_BSQHP.dtype)[..., None]
    return scaled.flatten(3).unflatten(3, (groups, -1)).transpose(2, 3)
