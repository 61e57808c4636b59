"""S4D, the diagonal state space with fixed parameters, as an op."""

from torch import Tensor

from statefilm.errors import suggest
from statefilm.ops.dispatch import check_backend, check_shape
from statefilm.ops.s4d.convolution import s4d_convolution
from statefilm.ops.s4d.kernel import RULES
from statefilm.ops.s4d.reference import s4d_reference

BACKENDS = {"convolution": s4d_convolution, "reference": s4d_reference}


def s4d(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    reverse: bool = False,
    discretisation: str = "zoh",
    backend: str = "auto",
) -> Tensor:
    """Pass each channel through a diagonal state space of its own (arXiv 2206.11893, section 3).

        x'(t) = A x(t) + u(t),   y(t) = 2 Re(C . x(t)) + D u(t)

    sampled every dt. A state of real size N is N/2 complex pairs of which one half is kept. B is
    fixed to one: only its product with C would matter.

    Args:
        u: [batch, length, dim].
        dt: [dim], step sizes > 0.
        A: [dim, pairs, 2], real (negative) and imaginary parts of the poles, per unit of time.
        C: [dim, pairs, 2], real and imaginary parts of the weights with which states are read.
        D: [dim], the skip; None leaves it out.
        reverse: run from the last token to the first.
        discretisation: "zoh" holds u between samples, "bilinear" is the trapezoidal rule.
        backend: "convolution" (FFT, any device), "reference" (the definition, a loop) or "auto",
            the fastest one.

    Returns:
        y with the shape and dtype of u. States and kernels are float32 (float64 for float64 u).

    Raises:
        ValueError: a shape does not fit the others, or a name is unknown.
    """
    op = "s4d"
    check_backend(op, backend, BACKENDS)
    if discretisation not in RULES:
        raise suggest(discretisation, RULES, "discretisation")
    if u.dim() != 3 or u.shape[1] == 0:
        raise ValueError(f"{op}: u has shape {tuple(u.shape)}, expected (batch, length >= 1, dim)")
    dim = u.shape[2]
    if A.dim() != 3:
        raise ValueError(f"{op}: A has shape {tuple(A.shape)}, expected (dim, pairs, 2)")
    check_shape(op, "dt", dt, (dim,), "(dim)")
    check_shape(op, "A", A, (dim, A.shape[1], 2), "(dim, pairs, 2)")
    check_shape(op, "C", C, tuple(A.shape), "(as A)")
    if D is not None:
        check_shape(op, "D", D, (dim,), "(dim)")
    run = BACKENDS["convolution" if backend == "auto" else backend]
    return run(u, dt, A, C, D, reverse, discretisation)
