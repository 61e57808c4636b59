"""The bidirectional state-space mixer as one op: below, on and above the diagonal in one pass."""

import torch
from torch import Tensor

from statefilm.ops.chunking import MIN_LOG_DECAY
from statefilm.ops.dispatch import accumulation_dtype, check_groups, check_shape, select
from statefilm.ops.quasiseparable.chunked import quasiseparable_chunked
from statefilm.ops.quasiseparable.reference import quasiseparable_reference

BACKENDS = {"chunked": quasiseparable_chunked, "reference": quasiseparable_reference}


def quasiseparable(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    backend: str = "auto",
) -> Tensor:
    """Multiply a sequence by Hydra's quasiseparable matrix (arXiv 2407.09941, section 3).

    Output i gathers every earlier token through the forward recurrence read one step before i,
    every later token through the backward recurrence read one step after i, and token i itself
    through the free diagonal D:

        y_i = sum_{j<i} c^f_{i-1} . b^f_j exp(sum_{k=j+1}^{i-1} dt^f_k A) dt^f_j x_j
            + sum_{j>i} c^b_{i+1} . b^b_j exp(sum_{k=i+1}^{j-1} dt^b_k A) dt^b_j x_j + D_i x_i

    Args:
        x: [batch, length, heads, head_dim].
        dt: [batch, length, 2, heads], step sizes > 0 (after softplus); axis 2: forward, backward.
        A: [heads], negative decay rates.
        B, C: [batch, length, 2, groups, state]; axis 2 as in dt; groups divide heads.
        D: [heads] or [batch, length, heads]; None leaves the diagonal zero.
        backend: "auto", "chunked" (matmuls, any device) or "reference" (the definition, a loop).

    Returns:
        y with the shape and dtype of x. Decays and states are float32 (float64 for float64 x).

    Raises:
        ValueError: a shape does not fit the others, or the backend is unknown.
    """
    op = "quasiseparable"
    if x.dim() != 4 or x.shape[1] == 0:
        raise ValueError(
            f"{op}: x has shape {tuple(x.shape)}, expected (batch, length >= 1, heads, head_dim)"
        )
    batch, length, heads, _ = x.shape
    if B.dim() != 5:
        raise ValueError(
            f"{op}: B has shape {tuple(B.shape)}, expected (batch, length, 2, groups, state)"
        )
    groups, state = B.shape[-2:]
    check_groups(op, heads, groups)
    check_shape(op, "dt", dt, (batch, length, 2, heads), "(batch, length, 2, heads)")
    check_shape(op, "A", A, (heads,), "(heads)")
    check_shape(op, "B", B, (batch, length, 2, groups, state), "(batch, length, 2, groups, state)")
    check_shape(op, "C", C, tuple(B.shape), "(as B)")
    if D is not None and D.dim() != 1:
        check_shape(op, "D", D, (batch, length, heads), "(batch, length, heads) or (heads)")
    elif D is not None:
        check_shape(op, "D", D, (heads,), "(heads) or (batch, length, heads)")
    run = select(op, BACKENDS, backend)
    if backend != "reference":
        acc = accumulation_dtype(x.dtype)
        dt = dt.to(acc)
        A = (dt * A.to(acc)).clamp_min(MIN_LOG_DECAY)
        B, C = B.to(x.dtype), C.to(x.dtype)
        D = D if D is None else D.expand(batch, length, heads)
    y = run(x, dt, A, B, C, D)
    assert isinstance(y, torch.Tensor)
    return y
