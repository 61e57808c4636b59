"""The bidirectional state-space mixer as one op: below, on and above the diagonal in one pass."""

import torch
from torch import Tensor

from statefilm.ops.chunking import MIN_LOG_DECAY
from statefilm.ops.dispatch import accumulation_dtype, check_backend, check_groups, check_shape
from statefilm.ops.quasiseparable import native
from statefilm.ops.quasiseparable.chunked import quasiseparable_chunked
from statefilm.ops.quasiseparable.core import Core
from statefilm.ops.quasiseparable.reference import quasiseparable_reference

BACKENDS = ("triton", "native", "chunked", "reference")
AUTO = BACKENDS[:-1]


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
        backend: "triton" (CUDA), "native" (C, on CPUs with a compiler), "chunked" (matmuls, any
            device), "reference" (the definition, a loop), or "auto", the fastest that can.

    Returns:
        y with the shape and dtype of x. Decays and states are float32 (float64 for float64 x).

    Raises:
        ValueError: a shape does not fit the others, or the backend is unknown or cannot do it.
    """
    op = "quasiseparable"
    check_backend(op, backend, BACKENDS)
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
    if backend == "reference":
        return quasiseparable_reference(x, dt, A, B, C, D)
    acc = accumulation_dtype(x.dtype)
    dt = dt.to(acc)
    a = (dt * A.to(acc)).clamp_min(MIN_LOG_DECAY)
    B, C = B.to(x.dtype), C.to(x.dtype)
    D = D if D is None else D.expand(batch, length, heads)
    return _core(backend, x, state)(x, dt, a, B, C, D)


def _core(backend: str, x: Tensor, state: int) -> Core:
    """The core that a backend names; of "auto" the first that takes such inputs."""
    traits = x.device.type, x.dtype, x.shape[3], state
    if backend == "auto":
        backend = next(name for name in AUTO if not _refusal(name, *traits, sparing=True))
    elif refusal := _refusal(backend, *traits, sparing=False):
        raise ValueError(f"quasiseparable: the {backend} backend {refusal}")
    return {"triton": _triton, "native": native.quasiseparable_native}.get(
        backend, quasiseparable_chunked
    )


@torch.compiler.assume_constant_result
def _refusal(
    backend: str, device: str, dtype: torch.dtype, head_dim: int, state: int, sparing: bool
) -> str:
    """Why a backend cannot take such inputs here, "" if it can.

    `sparing`: also why "auto" leaves it alone where it could.
    """
    if backend == "native":
        return native.refusal(device, dtype, head_dim, state)
    if backend == "triton":
        if sparing and (device != "cuda" or dtype != torch.bfloat16):
            return "is for bfloat16 on CUDA devices"  # float32 goes without the matrix units
        try:
            from statefilm.ops.quasiseparable import triton
        except ImportError:
            return "needs the package triton"
        return triton.refusal(device, dtype, head_dim, state)
    return ""


def _triton(
    x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None
) -> Tensor:
    from statefilm.ops.quasiseparable.triton import quasiseparable_triton

    return quasiseparable_triton(x, dt, a, B, C, D)
