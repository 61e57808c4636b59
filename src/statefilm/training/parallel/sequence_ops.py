"""The ops inside mixers that look along the sequence, for tokens that lie on several processes.

Each takes this process's tokens, trades them for all tokens of its share of the heads or channels,
runs the op, and trades back. What has no tokens, as rates and skips, is cut to the share. Processes
may have different numbers of tokens, never of heads.

Legend: B batch, L tokens, H heads, G groups, N state, P head_dim, C channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from statefilm.mixers.attention import attend
from statefilm.mixers.layers import conv_silu
from statefilm.mixers.linear_attention import attend_linearly
from statefilm.ops import quasiseparable, s4d, selective_scan, ssd
from statefilm.training.parallel.collectives import exchange, gather, part_sizes

__all__ = ["MirroredOps", "SequenceOps"]


class SequenceOps:
    """The ops under the names they have in mixers, with the same arguments.

    Args:
        group: the processes that the tokens lie on, in the order of ranks; their number divides
            the heads.

    Attributes:
        lengths: how many tokens of the sequence lie on each; whoever calls the ops says so before.
    """

    lengths: list[int]
    names: tuple[str, ...] = (
        *("conv_silu", "quasiseparable", "selective_scan", "s4d"),
        *("attend", "attend_linearly"),
    )

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group, self.rank, self.size = group, group.rank(), group.size()

    def table(self) -> dict[str, Callable[..., Tensor]]:
        """Each op by its name."""
        return {name: getattr(self, name) for name in self.names}

    def conv_silu(self, x_BLC: Tensor, conv: nn.Conv1d, *, left: int, right: int) -> Tensor:
        """See `mixers.layers.conv_silu`."""
        y = conv_silu(self._with_neighbours(x_BLC, left, right), conv, left=left, right=right)
        return y[:, left : left + x_BLC.shape[1]]

    def quasiseparable(
        self,
        x_BLHP: Tensor,
        dt_BL2H: Tensor,
        A_H: Tensor,
        B_BL2GN: Tensor,
        C_BL2GN: Tensor,
        D: Tensor,
    ) -> Tensor:
        """See `ops.quasiseparable`."""
        y = quasiseparable(
            self._to_heads(x_BLHP, 2),
            self._to_heads(dt_BL2H, 3),
            self._share(A_H),
            self._to_groups(B_BL2GN),
            self._to_groups(C_BL2GN),
            self._share(D) if D.dim() == 1 else self._to_heads(D, 2),
        )
        return self._to_tokens(y, 2)

    def selective_scan(
        self,
        x_BLC: Tensor,
        dt_BLC: Tensor,
        A_CN: Tensor,
        B_BLN: Tensor,
        C_BLN: Tensor,
        D_C: Tensor,
        *,
        reverse: bool,
    ) -> Tensor:
        """See `ops.selective_scan`."""
        y = selective_scan(
            self._to_heads(x_BLC, 2),
            self._to_heads(dt_BLC, 2),
            self._share(A_CN),
            gather(B_BLN, 1, self.lengths, self.group),
            gather(C_BLN, 1, self.lengths, self.group),
            self._share(D_C),
            reverse=reverse,
        )
        return self._to_tokens(y, 2)

    def s4d(
        self, x_BLC: Tensor, dt_C: Tensor, A: Tensor, C: Tensor, D_C: Tensor, *, reverse: bool
    ) -> Tensor:
        """See `ops.s4d`."""
        dt, rates, reads, skip = map(self._share, (dt_C, A, C, D_C))
        y = s4d(self._to_heads(x_BLC, 2), dt, rates, reads, skip, reverse=reverse)
        return self._to_tokens(y, 2)

    def attend(self, *qkv_BHLP: Tensor) -> Tensor:
        """See `mixers.attention.attend`; every token is read."""
        y = attend(*(self._to_heads(part, 1, tokens=2) for part in qkv_BHLP))
        return self._to_tokens(y, 1, tokens=2)

    def attend_linearly(self, *qkv_BHLP: Tensor) -> Tensor:
        """See `mixers.linear_attention.attend_linearly`."""
        y = attend_linearly(*(self._to_heads(part, 1, tokens=2) for part in qkv_BHLP))
        return self._to_tokens(y, 1, tokens=2)

    def _to_heads(self, x: Tensor, heads: int, tokens: int = 1) -> Tensor:
        """All tokens of this process's share of the heads; the arguments name the axes."""
        shares = part_sizes(x.shape[heads], self.size)
        return exchange(x, heads, tokens, shares, self.lengths, self.group)

    def _to_tokens(self, x: Tensor, heads: int, tokens: int = 1) -> Tensor:
        """Undo `_to_heads`."""
        shares = [x.shape[heads]] * self.size
        return exchange(x, tokens, heads, self.lengths, shares, self.group)

    def _to_groups(self, x: Tensor) -> Tensor:
        """All tokens of the groups that this process's heads read, of B or C [B, L, ..., G, N]."""
        groups, axis = x.shape[-2], x.dim() - 2
        if groups % self.size == 0:
            return self._to_heads(x, axis)
        own = self.rank * groups // self.size
        return gather(x, 1, self.lengths, self.group).narrow(axis, own, 1)

    def _share(self, x: Tensor) -> Tensor:
        """This process's share of the first axis, which is that of heads."""
        return x.chunk(self.size)[self.rank]

    def _with_neighbours(self, x_BLC: Tensor, left: int, right: int) -> Tensor:
        """[B, left + L + right, C]: the tokens, and those beside them; zero beyond the ends."""
        length, reach = x_BLC.shape[1], max(left, right)
        if min(self.lengths) < reach:
            # Neighbours of neighbours are read too, of a sequence this short.
            whole = F.pad(gather(x_BLC, 1, self.lengths, self.group), (0, 0, left, right))
            return whole.narrow(1, sum(self.lengths[: self.rank]), left + length + right)
        edges = torch.cat([x_BLC[:, :right], x_BLC[:, length - left :]], dim=1)
        all_edges = gather(edges[None], 0, [1] * self.size, self.group)
        nothing = torch.zeros_like(edges)
        before = all_edges[self.rank - 1] if self.rank > 0 else nothing
        after = all_edges[self.rank + 1] if self.rank < self.size - 1 else nothing
        return torch.cat([before[:, right:], x_BLC, after[:, :right]], dim=1)


class MirroredOps(SequenceOps):
    """Those of a mixer that lays the reversed sequence beside the other, as further heads.

    Each process has reversed its own tokens only; here they are turned back, so that all tokens
    lie in the order of ranks, and then all of them are reversed.
    """

    names = ("conv_silu", "ssd")

    def conv_silu(self, x_BLC: Tensor, conv: nn.Conv1d, *, left: int, right: int) -> Tensor:
        """See `mixers.layers.conv_silu`; the second half of the channels is reversed."""
        x, mirrored = x_BLC.chunk(2, -1)
        x = self._with_neighbours(x, left, right)
        mirrored = self._with_neighbours(mirrored.flip(1), right, left).flip(1)
        y = conv_silu(torch.cat([x, mirrored], -1), conv, left=left, right=right)
        return y[:, left : left + x_BLC.shape[1]]

    def ssd(
        self, x_BLHP: Tensor, dt_BLH: Tensor, A_H: Tensor, B_BLGN: Tensor, C_BLGN: Tensor
    ) -> Tensor:
        """See `ops.ssd`; the second half of heads and groups is reversed."""
        x = self._both(x_BLHP, lambda half: self._to_heads(half, 2))
        dt = self._both(dt_BLH, lambda half: self._to_heads(half, 2))
        B = self._both(B_BLGN, self._to_groups)
        C = self._both(C_BLGN, self._to_groups)
        A = torch.cat([self._share(half) for half in A_H.chunk(2)])
        y = ssd(x, dt, A, B, C)
        assert isinstance(y, Tensor)
        return self._both(y, lambda half: self._to_tokens(half, 2))

    def _both(self, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Change both halves of the third axis, the second as it was before it was reversed."""
        half, mirrored = x.chunk(2, 2)
        return torch.cat([change(half), change(mirrored.flip(1)).flip(1)], dim=2)
