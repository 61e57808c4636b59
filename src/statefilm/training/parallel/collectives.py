"""Exchanges between processes that autograd knows, each with its true adjoint.

So the backward of every process is that of the sum of all processes' losses, and the mean of the
gradients over all of them is the gradient of the mean loss, whatever is exchanged on the way.

What is cut need not fall into equal pieces: `part_sizes` says how long each is.
"""
# mypy: disable-error-code="no-untyped-def"

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["exchange", "gather", "part_sizes"]


def part_sizes(length: int, parts: int) -> list[int]:
    """The sizes of so many parts of a length, as even as can be; the longer ones come first."""
    size, longer = divmod(length, parts)
    return [size + 1] * longer + [size] * (parts - longer)


def exchange(
    x: Tensor,
    cut: int,
    join: int,
    sent: Sequence[int],
    received: Sequence[int],
    group: dist.ProcessGroup,
) -> Tensor:
    """Cut along one axis, give each process its piece, and join those that come along another.

    Args:
        cut, join: axes, counted from the front.
        sent: the size along `cut` of each process's piece; their sum is that of x.
        received: the size along `join` of what each process has; x has this process's.

    Returns:
        x with this process's piece alone along `cut`, and all of `received` along `join`.
    """
    return _Exchange.apply(x, cut, join, sent, received, group)


def gather(x: Tensor, axis: int, sizes: Sequence[int], group: dist.ProcessGroup) -> Tensor:
    """The tensors of all processes, one after the other along an axis, in the order of ranks.

    Args:
        sizes: of each process's tensor along the axis.
    """
    return _Gather.apply(x, axis, sizes, group)


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, cut, join, sent, received, group):
        ctx.back, ctx.group = (join, cut, received, sent), group
        return torch.cat(_swap(x.split(sent, cut), join, received, group), join)

    @staticmethod
    def backward(ctx: Any, grad):
        cut, join, sent, received = ctx.back
        pieces = _swap(grad.split(sent, cut), join, received, ctx.group)
        return torch.cat(pieces, join), None, None, None, None, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, axis, sizes, group):
        ctx.axis, ctx.sizes, ctx.group = axis, sizes, group
        shapes = _shapes(x, axis, sizes)
        counts = [math.prod(shape) for shape in shapes]
        # As long as the longest on each process, which is what all_gather takes.
        own = x.new_empty(max(counts))
        own[: x.numel()].view(x.shape).copy_(x)
        rows = [torch.empty_like(own) for _ in counts]
        dist.all_gather(rows, own, group=group)
        pieces = zip(rows, counts, shapes, strict=True)
        return torch.cat([row[:count].view(shape) for row, count, shape in pieces], axis)

    @staticmethod
    def backward(ctx: Any, grad):
        axis, sizes, group = ctx.axis, ctx.sizes, ctx.group
        own = [sizes[group.rank()]] * group.size()
        pieces = _swap(grad.split(sizes, axis), axis, own, group)
        return torch.stack(pieces).sum(0), None, None, None


def _swap(
    pieces: Sequence[Tensor], axis: int, sizes: Sequence[int], group: dist.ProcessGroup
) -> tuple[Tensor, ...]:
    """Piece i to process i; what came from each, in the order of ranks.

    Args:
        sizes: of what comes from each process along the axis; along the others it is as large as
            the piece that this process keeps.
    """
    shapes = _shapes(pieces[group.rank()], axis, sizes)
    counts, own_counts = [math.prod(s) for s in shapes], [piece.numel() for piece in pieces]
    sent, received = (pieces[0].new_empty(sum(n)) for n in (own_counts, counts))
    for part, piece in zip(sent.split(own_counts), pieces, strict=True):
        part.view(piece.shape).copy_(piece)
    dist.all_to_all_single(received, sent, counts, own_counts, group=group)
    parts = zip(received.split(counts), shapes, strict=True)
    return tuple(part.view(shape) for part, shape in parts)


def _shapes(x: Tensor, axis: int, sizes: Sequence[int]) -> list[list[int]]:
    """Of tensors as large as x but for one axis."""
    shape = list(x.shape)
    return [[*shape[:axis], size, *shape[axis + 1 :]] for size in sizes]
