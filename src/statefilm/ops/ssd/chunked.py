"""ssd as matmuls over chunks: PyTorch alone, any device, any length, linear time.

Legend: B batch, L length, K chunks, Q positions of a chunk, H heads, G groups, P head size,
N state size.
"""

import torch
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


def ssd_chunked(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See `ssd`; always returns the final state too."""
    length, heads = x.shape[1:3]
    dtype, acc = x.dtype, accumulation_dtype(x.dtype)
    size = min(CHUNK_SIZE, length)

    # Padding has dt = 0: it neither decays the state nor adds to it.
    x_BKHQP, dt_BKHQ = to_chunks(x, size), to_chunks(dt.to(acc), size)
    B_BKGQN, C_BKGQN = to_chunks(B.to(dtype), size), to_chunks(C.to(dtype), size)
    decay_in = (dt_BKHQ * A.to(acc)[:, None]).clamp_min(MIN_LOG_DECAY).cumsum(-1)
    u_BKHQP = (x_BKHQP * dt_BKHQ[..., None]).to(dtype)

    row = torch.arange(size, device=x.device)[:, None]
    log_decay_BKHQQ = (decay_in[..., :, None] - decay_in[..., None, :]).masked_fill(
        row < row.T, float("-inf")
    )
    scores_BKHQQ = per_head(C_BKGQN @ B_BKGQN.mT, heads)
    y_BKHQP = (scores_BKHQQ * log_decay_BKHQQ.exp()).to(dtype) @ u_BKHQP

    last = decay_in[..., -1:]
    into = (per_head(B_BKGQN, heads) * (last - decay_in).exp()[..., None]).to(dtype)
    initial = None if initial_state is None else initial_state.to(acc).mT
    states, final = carry((into.mT @ u_BKHQP).to(acc), last.squeeze(-1).exp(), initial)
    out = (per_head(C_BKGQN, heads) * decay_in.exp()[..., None]).to(dtype)
    y_BKHQP = y_BKHQP + out @ states.to(dtype)
    return from_chunks(y_BKHQP, length), final.mT
