"""The selective scan as a loop over tokens, the truth the fast forms are held to."""

import torch
from torch import Tensor

from statefilm.ops.dispatch import accumulation_dtype


def selective_scan_reference(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    reverse: bool = False,
) -> Tensor:
    """Run the selective state-space recurrence of Mamba, one token at a time.

    Every channel has a state of its own; all channels share B and C, which depend on the token::

        state_t = exp(dt_t A) state_{t-1} + dt_t u_t B_t        # [dim, state]
        y_t     = state_t C_t + D u_t

    Args:
        u: ``[batch, length, dim]``.
        dt: ``[batch, length, dim]``, step sizes above 0.
        A: ``[dim, state]``, negative decay rates.
        B, C: ``[batch, length, state]``.
        D: ``[dim]``, the skip; no such term when None.
        reverse: walk from the last token to the first.

    Returns:
        ``y`` with the shape and dtype of ``u``; the computation is float64 for float64 ``u`` and
        float32 otherwise.

    Source: Gu and Dao, "Mamba" (arXiv 2312.00752), algorithm 2, with its simplified
    discretisation of B.
    """
    dtype = accumulation_dtype(u.dtype)
    u_, dt, A, B, C = (t.to(dtype) for t in (u, dt, A, B, C))
    batch, length, dim = u.shape
    state = u_.new_zeros(batch, dim, A.shape[1])
    outputs = [state[..., 0]] * length
    for t in reversed(range(length)) if reverse else range(length):
        decay = torch.exp(dt[:, t, :, None] * A)
        state = decay * state + (dt[:, t] * u_[:, t])[..., None] * B[:, t, None]
        outputs[t] = (state * C[:, t, None]).sum(-1)
    y = torch.stack(outputs, dim=1)
    if D is not None:
        y = y + D.to(dtype) * u_
    return y.to(u.dtype)
