"""Mamba's selective scan (S6) as an op."""

import torch
from torch import Tensor

from statefilm.ops.dispatch import accumulation_dtype, check_backend, check_shape
from statefilm.ops.selective_scan import native
from statefilm.ops.selective_scan.chunked import selective_scan_chunked
from statefilm.ops.selective_scan.core import Core
from statefilm.ops.selective_scan.reference import selective_scan_reference

BACKENDS = ("triton", "native", "chunked", "reference")
AUTO = BACKENDS[:-1]


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    reverse: bool = False,
    backend: str = "auto",
) -> Tensor:
    """The selective state-space recurrence of Mamba (arXiv 2312.00752, algorithm 2).

    Each channel d has a state h of its own, with its own rates; B and C are shared:

        h_t = exp(dt_t A_d) h_{t-1} + dt_t B_t u_t,   y_t = C_t . h_t + D_d u_t

    Args:
        u: [batch, length, dim].
        dt: [batch, length, dim], step sizes > 0 (after softplus).
        A: [dim, state], negative decay rates.
        B, C: [batch, length, state].
        D: [dim], the skip; None leaves it out.
        reverse: walk from the last token to the first: what flipping all sequences before and
            after would give, without the copies.
        backend: "triton" (CUDA), "native" (C, on CPUs with a compiler), "chunked" (PyTorch, any
            device), "reference" (the definition, a loop), or "auto", the fastest that can.

    Returns:
        y with the shape and dtype of u. Decays and states are float32 (float64 for float64 u).

    Raises:
        ValueError: a shape does not fit the others, or the backend is unknown or cannot do it.
    """
    op = "selective_scan"
    check_backend(op, backend, BACKENDS)
    if u.dim() != 3 or u.shape[1] == 0:
        raise ValueError(f"{op}: u has shape {tuple(u.shape)}, expected (batch, length >= 1, dim)")
    if A.dim() != 2:
        raise ValueError(f"{op}: A has shape {tuple(A.shape)}, expected (dim, state)")
    batch, length, dim = u.shape
    state = A.shape[1]
    check_shape(op, "dt", dt, (batch, length, dim), "(batch, length, dim)")
    check_shape(op, "A", A, (dim, state), "(dim, state)")
    check_shape(op, "B", B, (batch, length, state), "(batch, length, state)")
    check_shape(op, "C", C, (batch, length, state), "(batch, length, state)")
    if D is not None:
        check_shape(op, "D", D, (dim,), "(dim)")
    if backend == "reference":
        return selective_scan_reference(u, dt, A, B, C, D, reverse)
    acc = accumulation_dtype(u.dtype)
    D = D if D is None else D.to(acc)
    core = _core(backend, u, state)
    y, _ = core(u, dt.to(acc), A.to(acc), B.to(u.dtype), C.to(u.dtype), D, reverse)
    return y


def _core(backend: str, u: Tensor, state: int) -> Core:
    """The core that a backend names; of "auto" the first that takes such inputs."""
    traits = u.device.type, u.dtype, u.shape[2], state
    if backend == "auto":
        backend = next(name for name in AUTO if not _refusal(name, *traits, sparing=True))
    elif refusal := _refusal(backend, *traits, sparing=False):
        raise ValueError(f"selective_scan: the {backend} backend {refusal}")
    return {"triton": _triton, "native": native.selective_scan_native}.get(
        backend, selective_scan_chunked
    )


@torch.compiler.assume_constant_result
def _refusal(
    backend: str, device: str, dtype: torch.dtype, dim: int, state: int, sparing: bool
) -> str:
    """Why a backend cannot take such inputs here, "" if it can.

    `sparing`: also why "auto" leaves it alone where it could.
    """
    if backend == "native":
        return native.refusal(device, dtype, dim, state)
    if backend == "triton":
        if sparing and device != "cuda":
            return "is for CUDA devices"  # its interpreter is for tests
        try:
            from statefilm.ops.selective_scan import triton
        except ImportError:
            return "needs the package triton"
        return triton.refusal(device, dtype, state)
    return ""


def _triton(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    from statefilm.ops.selective_scan.triton import selective_scan_triton

    return selective_scan_triton(u, dt, A, B, C, D, reverse)
