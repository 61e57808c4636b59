"""The quasiseparable mixer as two loops over tokens, the truth the fast forms are held to."""

from collections.abc import Iterable

import torch
from torch import Tensor

from statefilm.ops.dispatch import accumulation_dtype
from statefilm.ops.ssd.reference import advance, for_each_head, read


def quasiseparable_reference(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None
) -> Tensor:
    """Mix every token with those before it, those after it and itself.

    ``y_i = (what tokens before i left) + (what tokens after i left) + D_i x_i``. What the tokens
    before i left is the output of the causal scan at token i - 1, so it is read with the C of
    token i - 1; the other side is its mirror image, with its own dt, B and C.

    Args:
        x: ``[batch, length, heads, head_dim]``.
        dt: ``[batch, length, 2, heads]``, step sizes above 0; axis 2: forward, backward.
        A: ``[heads]``, negative decay rates, shared by both directions.
        B, C: ``[batch, length, 2, groups, state]``; groups divides heads.
        D: ``[heads]`` or ``[batch, length, heads]``, the free diagonal; no such term when None.

    Returns:
        ``y`` with the shape and dtype of ``x``; the computation is float64 for float64 ``x`` and
        float32 otherwise.

    Source: Hwang et al., "Hydra" (arXiv 2407.09941):
    QS(X) = shift(SS(X)) + flip(shift(SS(flip(X)))) + D X.
    """
    dtype = accumulation_dtype(x.dtype)
    length, heads = x.shape[1], x.shape[2]
    x_, dt, A = x.to(dtype), dt.to(dtype), A.to(dtype)
    B, C = for_each_head(B.to(dtype), heads), for_each_head(C.to(dtype), heads)
    left_to_right, right_to_left = range(length), reversed(range(length))
    y = _left_by_earlier(x_, dt[:, :, 0], A, B[:, :, 0], C[:, :, 0], left_to_right)
    y = y + _left_by_earlier(x_, dt[:, :, 1], A, B[:, :, 1], C[:, :, 1], right_to_left)
    if D is not None:
        y = y + D.to(dtype)[..., None] * x_
    return y.to(x.dtype)


def _left_by_earlier(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, walk: Iterable[int]
) -> Tensor:
    """What the tokens visited earlier in the walk left at each token, in the shape of ``x``."""
    batch, length, heads, head_dim = x.shape
    state = x.new_zeros(batch, heads, head_dim, B.shape[-1])
    left = x.new_zeros(batch, heads, head_dim)
    outputs = [left] * length
    for i in walk:
        outputs[i] = left
        state = advance(state, x[:, i], dt[:, i], A, B[:, i])
        left = read(state, C[:, i])
    return torch.stack(outputs, dim=1)
