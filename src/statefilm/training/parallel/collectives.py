"""Exchanges between processes that autograd knows, each with its true adjoint.

So the backward of every process is that of the sum of all processes' losses, and the mean of the
gradients over all of them is the gradient of the mean loss, whatever is exchanged on the way.
"""
# mypy: disable-error-code="no-untyped-def"

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["exchange", "gather"]


def exchange(x: Tensor, cut: int, join: int, group: dist.ProcessGroup) -> Tensor:
    """Cut along one axis, give each process its piece, and join those that come along another.

    Args:
        x: its axis `cut` is a multiple of the group's size.
        cut, join: axes, counted from the front.

    Returns:
        x, shorter along `cut` and longer along `join` by the size of the group.
    """
    return _Exchange.apply(x, cut, join, group)


def gather(x: Tensor, axis: int, group: dist.ProcessGroup) -> Tensor:
    """The tensors of all processes, one after the other along an axis, in the order of ranks."""
    return _Gather.apply(x, axis, group)


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, cut, join, group):
        ctx.cut, ctx.join, ctx.group = cut, join, group
        return torch.cat(_swap(x.chunk(group.size(), cut), group), join)

    @staticmethod
    def backward(ctx: Any, grad):
        pieces = _swap(grad.chunk(ctx.group.size(), ctx.join), ctx.group)
        return torch.cat(pieces, ctx.cut), None, None, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, axis, group):
        ctx.axis, ctx.group = axis, group
        pieces = [
            torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(group.size())
        ]
        dist.all_gather(pieces, x.contiguous(), group=group)
        return torch.cat(pieces, axis)

    @staticmethod
    def backward(ctx: Any, grad):
        pieces = _swap(grad.chunk(ctx.group.size(), ctx.axis), ctx.group)
        return torch.stack(pieces).sum(0), None, None


def _swap(pieces: tuple[Tensor, ...], group: dist.ProcessGroup) -> tuple[Tensor, ...]:
    """Piece i to process i; what came from each, in the order of ranks."""
    sent = torch.stack(pieces)
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=group)
    return received.unbind()
