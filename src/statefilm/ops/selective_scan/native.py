"""selective_scan in C for CPUs: `native.c` as an op, where the machine has a C compiler."""

import ctypes
import math
from pathlib import Path

import torch
from torch import Tensor

from statefilm.ops import native
from statefilm.ops.selective_scan.core import Gradients, empty_like, make_core, new_states

HERE = Path(__file__)
SOURCES = (
    HERE.with_name("native.c"),
    HERE.parents[1] / "quasiseparable" / "native_vectors.h",
)
DTYPES = {torch.float32: "BF16=0", torch.bfloat16: "BF16=1"}
CHUNK, PART, MAX_STATE = 64, 256, 64  # as in native.c
GROUPS = 64  # of rows: tasks enough for many threads, shares of dA few enough for memory


class _View(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("at", "batch", "position")]


class _Problem(ctypes.Structure):
    """`Problem` of native.c; addresses are integers."""

    _fields_ = [
        *((n, ctypes.c_int64) for n in ("batch", "length", "dim", "N")),
        *((n, ctypes.c_int64) for n in ("groups", "reverse", "threads")),
        *((name, _View) for name in ("u", "dy", "B", "C")),
        *((n, ctypes.c_int64) for n in ("dt", "A", "D", "states", "out")),
        *((n, ctypes.c_int64) for n in ("ddt", "dB", "dC", "dA", "dD", "work")),
    ]


@torch.compiler.assume_constant_result
def refusal(device: str, dtype: torch.dtype, dim: int, state: int) -> str:
    """Why such inputs cannot be taken here, "" if they can; may build the library."""
    if dtype not in DTYPES:
        return f"does not take {dtype}; valid: float32, bfloat16"
    if dim % 16 or not 1 <= state <= MAX_STATE:
        return (
            f"does not take dim {dim} with state {state}; "
            f"valid: dim a multiple of 16, state 1 to {MAX_STATE}"
        )
    if device != "cpu":
        return f"does not run on {device}; valid: cpu"
    try:
        _library(dtype)
    except native.NativeError as error:
        return f"is off: {error}"
    return ""


def forward(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """See `core.make_core`."""
    y, states = empty_like(u), new_states(u, dt, A.shape[1], CHUNK)
    _launch("forward", (u, dt, A, B, C, D), reverse, {"states": states, "out": y})
    return y, states


def backward(
    dy: Tensor,
    states: Tensor,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    reverse: bool,
) -> Gradients:
    """See `core.make_core`."""
    (batch, length, dim), state = u.shape, A.shape[1]
    du, ddt = empty_like(u), empty_like(dt)
    dB, dC = dt.new_empty(2, batch, -(-dim // PART), length, state)
    dA = dt.new_empty(_groups(batch), state, dim)
    dD = None if D is None else dt.new_empty(_groups(batch), dim)
    results = {"states": states, "out": du, "ddt": ddt, "dB": dB, "dC": dC, "dA": dA, "dD": dD}
    _launch("backward", (u, dt, A, B, C, D), reverse, results, dy)
    return (
        du,
        ddt,
        dA.sum(0).T.contiguous(),
        dB.sum(1).to(B.dtype),
        dC.sum(1).to(C.dtype),
        None if dD is None else dD.sum(0),
    )


def _launch(
    name: str,
    inputs: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None],
    reverse: bool,
    results: dict[str, Tensor | None],
    dy: Tensor | None = None,
) -> None:
    u, dt, A, B, C, D = inputs
    batch, length, dim = u.shape
    why = refusal(u.device.type, u.dtype, dim, A.shape[1])
    if not why and not u.dtype == B.dtype == C.dtype:
        why = f"wants B and C in the dtype of u, not {B.dtype} and {C.dtype} with {u.dtype}"
    if why:
        raise ValueError(f"selective_scan: the native backend {why}")
    if u.numel() == 0:
        return
    u, B, C = _rows(u), _rows(B), _rows(C)
    dy = u if dy is None else _rows(dy.to(u.dtype))
    rates = A.float().T / math.log(2)
    read = {"dt": dt, "A": rates} | ({} if D is None else {"D": D})
    read = {field: t.float().contiguous() for field, t in read.items()}
    threads = native.threads()
    problem = _Problem(batch, length, dim, A.shape[1], _groups(batch), reverse, threads)
    problem.u, problem.dy, problem.B, problem.C = _view(u), _view(dy), _view(B), _view(C)
    for field, tensor in (read | results).items():
        setattr(problem, field, 0 if tensor is None else tensor.data_ptr())
    library = _library(u.dtype)
    work = torch.empty(library.work_bytes() * threads, dtype=torch.uint8, device="cpu")
    problem.work = work.data_ptr()
    getattr(library, name)(ctypes.byref(problem))


def _groups(batch: int) -> int:
    return min(batch, GROUPS)


def _rows(t: Tensor) -> Tensor:
    return t if t.stride(-1) == 1 else t.contiguous()


def _view(t: Tensor) -> _View:
    return _View(t.data_ptr(), *t.stride()[:2])


def _library(dtype: torch.dtype) -> ctypes.CDLL:
    library = native.library(SOURCES, (DTYPES[dtype],))
    library.work_bytes.restype = ctypes.c_int64
    return library


selective_scan_native = make_core("native", CHUNK, forward, backward)
