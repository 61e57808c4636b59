"""S4D as a loop over tokens, the truth the convolution is held to."""

import torch
from torch import Tensor

from statefilm.ops.dispatch import accumulation_dtype


def s4d_reference(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    reverse: bool = False,
    discretisation: str = "zoh",
) -> Tensor:
    """Run the recurrence of a diagonal state space, one token at a time.

    For every channel, with complex states ``x [pairs]`` that start at zero::

        x_t = decay x_{t-1} + gain u_t
        y_t = 2 Re(sum_n C_n x_t,n) + D u_t

    where ``decay`` and ``gain`` are those of `discretised`. Twice the real part stands for the
    conjugate half of the states.

    Args:
        u: ``[batch, length, dim]``.
        dt: ``[dim]``, step sizes above 0.
        A, C: ``[dim, pairs, 2]``, real and imaginary parts.
        D: ``[dim]`` or None.
        reverse: begin at the last token.
        discretisation: "zoh" or "bilinear".

    Returns:
        ``y`` with the shape and dtype of ``u``.

    Source: Gu et al., "On the Parameterization and Initialization of Diagonal State Space Models"
    (arXiv 2206.11893), equation 2 and section 3.1.
    """
    dtype = accumulation_dtype(u.dtype)
    u_, dt = u.to(dtype), dt.to(dtype)
    A, C = torch.view_as_complex(A.to(dtype)), torch.view_as_complex(C.to(dtype))
    decay, gain = discretised(dt[:, None], A, discretisation)
    state = torch.zeros_like(u_[:, 0, :, None] * gain)
    outputs: list[Tensor] = [u_[:, 0]] * u.shape[1]
    for t in reversed(range(u.shape[1])) if reverse else range(u.shape[1]):
        state = decay * state + gain * u_[:, t, :, None]
        outputs[t] = 2 * (C * state).sum(dim=-1).real
    y = torch.stack(outputs, dim=1)
    return (y if D is None else y + D.to(dtype) * u_).to(u.dtype)


def discretised(dt: Tensor, A: Tensor, discretisation: str) -> tuple[Tensor, Tensor]:
    """What one step keeps of a state, and what it adds of its input, both complex as A."""
    if discretisation == "zoh":
        return torch.exp(dt * A), torch.expm1(dt * A) / A
    return (1 + dt * A / 2) / (1 - dt * A / 2), dt / (1 - dt * A / 2)
