"""Mamba-2's causal state-space mixer (SSD) as an op."""

from torch import Tensor

from statefilm.ops.dispatch import check_groups, check_shape, select
from statefilm.ops.ssd.chunked import ssd_chunked
from statefilm.ops.ssd.reference import ssd_reference

BACKENDS = {"chunked": ssd_chunked, "reference": ssd_reference}


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """The selective state-space recurrence of Mamba-2 (arXiv 2405.21060, equation 1 with scalar A).

        S_t = exp(dt_t A) S_{t-1} + dt_t x_t b_t',   y_t = S_t c_t

    Args:
        x: [batch, length, heads, head_dim].
        dt: [batch, length, heads], step sizes > 0 (after softplus).
        A: [heads], negative decay rates.
        B, C: [batch, length, groups, state]; groups divide heads.
        initial_state: [batch, heads, head_dim, state], zero when None.
        return_final_state: also return the state after the last token.
        backend: "auto", "chunked" (matmuls, any device) or "reference" (the definition, a loop).

    Returns:
        y with the shape and dtype of x; with `return_final_state` also the state, float32
        (float64 for float64 x), [batch, heads, head_dim, state].

    Raises:
        ValueError: a shape does not fit the others, or the backend is unknown.
    """
    op = "ssd"
    if x.dim() != 4 or x.shape[1] == 0:
        raise ValueError(
            f"{op}: x has shape {tuple(x.shape)}, expected (batch, length >= 1, heads, head_dim)"
        )
    batch, length, heads, head_dim = x.shape
    if B.dim() != 4:
        raise ValueError(
            f"{op}: B has shape {tuple(B.shape)}, expected (batch, length, groups, state)"
        )
    groups, state = B.shape[-2:]
    check_groups(op, heads, groups)
    check_shape(op, "dt", dt, (batch, length, heads), "(batch, length, heads)")
    check_shape(op, "A", A, (heads,), "(heads)")
    check_shape(op, "B", B, (batch, length, groups, state), "(batch, length, groups, state)")
    check_shape(op, "C", C, tuple(B.shape), "(as B)")
    if initial_state is not None:
        check_shape(
            op,
            "initial_state",
            initial_state,
            (batch, heads, head_dim, state),
            "(batch, heads, head_dim, state)",
        )
    result = select(op, BACKENDS, backend)(x, dt, A, B, C, initial_state=initial_state)
    assert isinstance(result, tuple)
    return result if return_final_state else result[0]
