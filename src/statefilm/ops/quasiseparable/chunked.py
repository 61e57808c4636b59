"""quasiseparable as matmuls over chunks: PyTorch alone, any device, any length, linear time.

Each chunk's Q x Q matrix holds the lower and the upper part together, so one product serves both
directions; so does one product for the chunk states and one for reading them back.

Legend: B batch, L length, K chunks, Q positions of a chunk, H heads, G groups, P head size,
N state size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from statefilm.ops.chunking import (
    CHUNK_SIZE,
    MIN_LOG_DECAY,
    carry,
    from_chunks,
    per_head,
    to_chunks,
)
from statefilm.ops.dispatch import accumulation_dtype


def quasiseparable_chunked(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None
) -> Tensor:
    """See `quasiseparable`."""
    length, heads = x.shape[1:3]
    dtype, acc = x.dtype, accumulation_dtype(x.dtype)
    size = min(CHUNK_SIZE, length)

    # The output reads the forward state one step before itself and the backward one a step after.
    C_f = F.pad(C[:, :-1, 0], (0, 0, 0, 0, 1, 0))
    C_b = F.pad(C[:, 1:, 1], (0, 0, 0, 0, 0, 1))
    x_BKHQP = to_chunks(x, size)
    B_f, B_b, C_f, C_b = (to_chunks(t.to(dtype), size) for t in (B[:, :, 0], B[:, :, 1], C_f, C_b))
    # Padding has x = 0; its dt is 1 so that the logarithm below stays finite.
    dt_f, dt_b = (to_chunks(dt[:, :, i].to(acc), size, pad_value=1.0) for i in (0, 1))
    A_H1 = A.to(acc)[:, None]

    # Log-decays from the chunk's start: `_in` includes the position's own step, `_ex` does not.
    f_in, b_in = ((dt * A_H1).clamp_min(MIN_LOG_DECAY).cumsum(-1) for dt in (dt_f, dt_b))
    f_ex, b_ex = F.pad(f_in[..., :-1], (1, 0)), F.pad(b_in[..., :-1], (1, 0))
    # A source's step size joins its log-decay: one exponential gives both.
    tiny = torch.finfo(acc).tiny
    f_source = f_in - dt_f.clamp_min(tiny).log()
    b_source = b_ex + dt_b.clamp_min(tiny).log()

    row = torch.arange(size, device=x.device)[:, None]
    below, above = row > row.T, row < row.T
    log_decay_BKHQQ = torch.where(
        below,
        f_ex[..., :, None] - f_source[..., None, :],
        (b_source[..., None, :] - b_in[..., :, None]).masked_fill(~above, float("-inf")),
    )
    scores_BKGQQ = torch.where(below, C_f @ B_f.mT, C_b @ B_b.mT)
    matrix_BKHQQ = (per_head(scores_BKGQQ, heads) * log_decay_BKHQQ.exp()).to(dtype)
    y_BKHQP = matrix_BKHQQ @ x_BKHQP

    if x_BKHQP.shape[1] > 1:
        f_last, b_last = f_in[..., -1:], b_in[..., -1:]
        into = torch.cat(
            [
                per_head(B_f, heads) * (f_last - f_source).exp()[..., None],
                per_head(B_b, heads) * b_source.exp()[..., None],
            ],
            dim=-1,
        ).to(dtype)
        states_f, states_b = (into.mT @ x_BKHQP).to(acc).chunk(2, dim=-2)
        states_f, _ = carry(states_f, f_last.squeeze(-1).exp(), None)
        states_b, _ = carry(states_b, b_last.squeeze(-1).exp(), None, reverse=True)
        out = torch.cat(
            [
                per_head(C_f, heads) * f_ex.exp()[..., None],
                per_head(C_b, heads) * (b_last - b_in).exp()[..., None],
            ],
            dim=-1,
        ).to(dtype)
        y_BKHQP = y_BKHQP + out @ torch.cat([states_f, states_b], dim=-2).to(dtype)

    y = from_chunks(y_BKHQP, length)
    return y if D is None else y + (x * D[..., None]).to(dtype)
