"""The causal state-space scan as a loop over tokens, the truth the fast forms are held to."""

import torch
from torch import Tensor

from statefilm.ops.dispatch import accumulation_dtype


def ssd_reference(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the scalar-decay state-space recurrence of Mamba-2, one token at a time.

    For every head, with the group of B and C that serves it::

        state_t = exp(dt_t A) state_{t-1} + dt_t x_t B_t'        # a [head_dim, state] matrix
        y_t     = state_t C_t

    Args:
        x: ``[batch, length, heads, head_dim]``.
        dt: ``[batch, length, heads]``, step sizes above 0.
        A: ``[heads]``, negative decay rates.
        B, C: ``[batch, length, groups, state]``; groups divides heads.
        initial_state: ``[batch, heads, head_dim, state]``, the state before the first token;
            zeros when None.

    Returns:
        ``y`` with the shape and dtype of ``x``, and the state after the last token,
        ``[batch, heads, head_dim, state]`` in the dtype of the computation, which is float64 for
        float64 ``x`` and float32 otherwise.

    Source: Dao and Gu, "Transformers are SSMs" (arXiv 2405.21060), equation 1 with the
    discretisation of section 7.
    """
    dtype = accumulation_dtype(x.dtype)
    batch, length, heads, head_dim = x.shape
    x_, dt, A = x.to(dtype), dt.to(dtype), A.to(dtype)
    B, C = for_each_head(B.to(dtype), heads), for_each_head(C.to(dtype), heads)
    if initial_state is None:
        state = x_.new_zeros(batch, heads, head_dim, B.shape[-1])
    else:
        state = initial_state.to(dtype)
    outputs = []
    for t in range(length):
        state = advance(state, x_[:, t], dt[:, t], A, B[:, t])
        outputs.append(read(state, C[:, t]))
    return torch.stack(outputs, dim=1).to(x.dtype), state


def advance(state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """Let the state ``[batch, heads, head_dim, state]`` decay over one token and take it in."""
    decay = torch.exp(dt * A)[..., None, None]
    return decay * state + (dt[..., None] * x)[..., None] * B[..., None, :]


def read(state: Tensor, C: Tensor) -> Tensor:
    """Read the state with ``C [batch, heads, state]``: ``[batch, heads, head_dim]``."""
    return (state * C[..., None, :]).sum(dim=-1)


def for_each_head(grouped: Tensor, heads: int) -> Tensor:
    """Give each head its group: ``[..., groups, state]`` to ``[..., heads, state]``."""
    return grouped.repeat_interleave(heads // grouped.shape[-2], dim=-2)
