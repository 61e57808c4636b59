"""quasiseparable in C for CPUs: `native.c` as an op, where the machine has a C compiler.

Legend: B batch, L length, H heads, G groups, P head size, N state size.
"""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from statefilm.ops import native
from statefilm.ops.quasiseparable.core import Gradients, make_core

FILES = ("native.c", "native_chunk.h", "native_vectors.h")
SOURCES = tuple(Path(__file__).with_name(name) for name in FILES)
DTYPES = {torch.float32: "BF16=0", torch.bfloat16: "BF16=1"}
SIZES = range(16, 129, 16)  # of heads and states
VALID_SIZES = "multiples of 16 up to 128"
KEPT_BYTES = 2**29  # of working memory between calls

_kept: list[Tensor] = []


class _View(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("at", "batch", "position", "head")]


class _Problem(ctypes.Structure):
    """`Problem` of native_chunk.h; addresses are integers."""

    _fields_ = [
        *((n, ctypes.c_int64) for n in ("batch", "length", "heads", "groups", "N", "P", "threads")),
        *((name, _View) for name in ("x", "dy", "B_f", "B_b", "C_f", "C_b")),
        *((n, ctypes.c_int64) for n in ("dt", "a", "D", "out", "dB", "dC", "ddt", "da", "dD")),
        ("scratch", ctypes.c_int64),
        ("laid_out_in_c", ctypes.c_int64 * 10),
    ]


@torch.compiler.assume_constant_result
def refusal(device: str, dtype: torch.dtype, head_dim: int, state: int) -> str:
    """Why such inputs cannot be taken here, "" if they can; may build the library."""
    if dtype not in DTYPES:
        return f"does not take {dtype}; valid: float32, bfloat16"
    if head_dim not in SIZES or state not in SIZES:
        return f"does not take head_dim {head_dim} with state {state}; valid: {VALID_SIZES}"
    if device != "cpu":
        return f"does not run on {device}; valid: cpu"
    missing = _missing(dtype)
    return f"is off: {missing}" if missing else ""


def forward(x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, D: Tensor | None) -> Tensor:
    """See `core.make_core`."""
    y = _empty(x, x.dtype)
    _launch("forward", (x, dt, a, B, C, D), {"out": y})
    return y


def backward(
    dy: Tensor, x: Tensor, dt: Tensor, a: Tensor, B: Tensor, C: Tensor, D: Tensor | None
) -> Gradients:
    """See `core.make_core`."""
    dx, dB, dC = (_empty(t, t.dtype) for t in (x, B, C))
    ddt, da = (_empty(t, torch.float32) for t in (dt, a))
    dD = None if D is None else _empty(D, torch.float32)
    dC[:, -1, 0] = 0  # the ends are never read
    dC[:, 0, 1] = 0
    results = {"out": dx, "dB": dB, "dC": dC, "ddt": ddt, "da": da, "dD": dD}
    _launch("backward", (x, dt, a, B, C, D), results, dy)
    if D is not None and dD is not None:
        dD = dD.to(D.dtype)
    return dx, ddt.to(dt.dtype), da.to(a.dtype), dB, dC, dD


def _launch(
    name: str,
    inputs: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None],
    results: dict[str, Tensor | None],
    dy: Tensor | None = None,
) -> None:
    x, dt, a, B, C, D = inputs
    batch, length, heads, head_dim = x.shape
    groups, state = B.shape[3:]
    why = refusal(x.device.type, x.dtype, head_dim, state)
    if not why and not x.dtype == B.dtype == C.dtype:
        why = f"wants B and C in the dtype of x, not {B.dtype} and {C.dtype} with {x.dtype}"
    if why:
        raise ValueError(f"quasiseparable: the native backend {why}")
    x, B, C = _rows(x), _rows(B), _rows(C)
    dy = x if dy is None else _rows(dy.to(x.dtype))
    steps = {"dt": dt, "a": a} | ({} if D is None else {"D": D})
    steps = {field: t.float().contiguous() for field, t in steps.items()}
    problem = _Problem(batch, length, heads, groups, state, head_dim, native.threads())
    problem.x, problem.dy = _view(x), _view(dy)
    problem.B_f, problem.B_b = _view(B[:, :, 0]), _view(B[:, :, 1])
    problem.C_f, problem.C_b = _view(C[:, :, 0]), _view(C[:, :, 1])
    for field, tensor in (steps | results).items():
        setattr(problem, field, 0 if tensor is None else tensor.data_ptr())
    library = _library(x.dtype)
    scratch = _scratch(getattr(library, f"{name}_bytes")(ctypes.byref(problem)))
    problem.scratch = scratch.data_ptr()
    getattr(library, name)(ctypes.byref(problem))
    if scratch.numel() <= KEPT_BYTES:
        _kept[:] = [scratch]


def release() -> None:
    """Give back the working memory that is kept between calls."""
    _kept.clear()


def _scratch(size: int) -> Tensor:
    """Working memory: the last call's, as fresh pages cost about as much as the work on them."""
    try:
        kept = _kept.pop()  # another thread finds none and makes its own
    except IndexError:
        kept = None
    if kept is not None and kept.numel() >= size:
        return kept
    return torch.empty(size, dtype=torch.uint8, device="cpu")


def _empty(like: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(like, dtype=dtype, memory_format=torch.contiguous_format)


def _rows(t: Tensor) -> Tensor:
    return t if t.stride(-1) == 1 else t.contiguous()


def _view(t: Tensor) -> _View:
    return _View(t.data_ptr(), *t.stride()[:3])


def _library(dtype: torch.dtype) -> ctypes.CDLL:
    library = native.library(SOURCES, (DTYPES[dtype],))
    library.forward_bytes.restype = library.backward_bytes.restype = ctypes.c_int64
    return library


def _missing(dtype: torch.dtype) -> str:
    try:
        _library(dtype)
    except native.NativeError as error:
        return str(error)
    return ""


quasiseparable_native = make_core("native", forward, backward)
