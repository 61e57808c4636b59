"""Cutting sequences into chunks and carrying states from chunk to chunk.

Legend: B batch, L length, S chunks of a segment, Q positions of a chunk, H heads, G groups,
P head size, N state size, R = H / G * P.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from statefilm.ops.dispatch import accumulation_dtype

CHUNK_SIZE = 64  # the fastest eager chunk on CPUs
# A step that decays more than this forgets everything; the bound keeps a chunk's cumulative sums
# small enough for float32 to resolve their differences.
MIN_LOG_DECAY = -60.0
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


class Carrier:
    """A state [B, G, N, R] carried from chunk to chunk in float32 or wider.

    Args:
        x, B: the op's inputs; they say the shape, and the dtype in which states are given out.
        reverse: whether chunks come last to first.
        start: the first state, [B, H, P, N]; None is zero.
    """

    def __init__(
        self, x: Tensor, B: Tensor, reverse: bool = False, start: Tensor | None = None
    ) -> None:
        batch, _, heads, head_dim = x.shape
        groups, state = B.shape[-2:]
        shape = (batch, groups, state, heads // groups * head_dim)
        self.state = x.new_zeros(shape, dtype=accumulation_dtype(x.dtype))
        if start is not None:
            by_groups = start.to(self.state.dtype).unflatten(1, (groups, -1))
            self.state = by_groups.flatten(2, 3).mT
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

    def by_heads(self) -> Tensor:
        """The state as it is now, [B, H, P, N]."""
        return self.state.mT.unflatten(2, (-1, self.head_dim)).flatten(1, 2).contiguous()


def per_head(x_BSGQQ: Tensor, heads: int) -> Tensor:
    """Repeat a group's matrix for each of its heads: [B, S, G, Q, Q] -> [B, S, H, Q, Q]."""
    groups = x_BSGQQ.shape[2]
    if groups == 1:
        return x_BSGQQ.expand(-1, -1, heads, -1, -1)
    return x_BSGQQ.repeat_interleave(heads // groups, dim=2)


def by_heads(x_BSGQR: Tensor, heads: int) -> Tensor:
    """[B, S, G, Q, R] -> [B, S, Q, H, P]."""
    return x_BSGQR.transpose(2, 3).flatten(3).unflatten(3, (heads, -1))


def _by_groups(x_BSQHP: Tensor, factor_BSQH: Tensor, groups: int) -> Tensor:
    """x times a factor of each position and head, [B, S, G, Q, R]."""
    scaled = x_BSQHP * factor_BSQH.to(x_BSQHP.dtype)[..., None]
    return scaled.flatten(3).unflatten(3, (groups, -1)).transpose(2, 3)
