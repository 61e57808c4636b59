"""Cutting sequences into chunks and carrying states from chunk to chunk.

Legend: B batch, L length, K chunks, Q positions of a chunk, H heads, G groups, P head size,
N state size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_SIZE = 64  # the fastest eager chunk on CPUs
# A step that decays more than this forgets everything; the bound keeps a chunk's cumulative sums
# small enough for float32 to resolve their differences.
MIN_LOG_DECAY = -60.0


def to_chunks(x_BLX: Tensor, size: int, pad_value: float = 0.0) -> Tensor:
    """[B, L, H, *] -> [B, K, H, Q, *], the end padded with `pad_value` up to a whole chunk."""
    missing = -x_BLX.shape[1] % size
    if missing:
        x_BLX = F.pad(x_BLX, [0, 0] * (x_BLX.dim() - 2) + [0, missing], value=pad_value)
    return x_BLX.unflatten(1, (-1, size)).transpose(2, 3)


def from_chunks(y_BKHQP: Tensor, length: int) -> Tensor:
    """[B, K, H, Q, P] -> [B, L, H, P], padding dropped."""
    return y_BKHQP.transpose(2, 3).flatten(1, 2)[:, :length]


def per_head(x_BKGXX: Tensor, heads: int) -> Tensor:
    """Repeat the groups' entries for each of their heads: [B, K, G, ...] -> [B, K, H, ...]."""
    groups = x_BKGXX.shape[2]
    if groups == 1:
        return x_BKGXX.expand(-1, -1, heads, -1, -1)
    return x_BKGXX.repeat_interleave(heads // groups, dim=2)


def carry(
    states_BKHNP: Tensor, decay_BKH: Tensor, initial_BHNP: Tensor | None, *, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """Run the recurrence over chunks; return the state that enters each chunk and the last one.

    `unbind` rather than indexing: the backward of K separate indexings costs K full-size zeros.
    """
    states = states_BKHNP.unbind(1)
    decays = decay_BKH[..., None, None].unbind(1)
    order = range(len(states))
    state = torch.zeros_like(states[0]) if initial_BHNP is None else initial_BHNP
    entering: list[Tensor] = []
    for k in reversed(order) if reverse else order:
        entering.append(state)
        state = decays[k] * state + states[k]
    if reverse:
        entering.reverse()
    return torch.stack(entering, dim=1), state
