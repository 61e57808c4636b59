"""What the ops share at their door: the choice of a backend and the checks of shapes."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor


def check_backend(op: str, backend: str, backends: Iterable[str]) -> None:
    """Raise ValueError, naming the valid ones, unless `backend` is "auto" or one of `backends`."""
    if backend not in ("auto", *backends):
        valid = ", ".join(["auto", *backends])
        raise ValueError(f"{op}: unknown backend {backend!r}; valid: {valid}")


def select(
    op: str, backends: Mapping[str, Callable[..., object]], backend: str
) -> Callable[..., object]:
    """The implementation of `op` that `backend` names; "auto" takes the fastest one."""
    check_backend(op, backend, backends)
    if backend == "auto":
        backend = "chunked"
    return backends[backend]


def check_shape(op: str, name: str, tensor: Tensor, expected: tuple[int, ...], legend: str) -> None:
    """Raise ValueError, naming the tensor and both shapes, unless `tensor` has the expected one."""
    if tuple(tensor.shape) != expected:
        raise ValueError(
            f"{op}: {name} has shape {tuple(tensor.shape)}, expected {expected} {legend}"
        )


def check_groups(op: str, heads: int, groups: int) -> None:
    """Raise ValueError unless the heads divide evenly into the groups."""
    if groups < 1 or heads % groups:
        raise ValueError(f"{op}: {groups} groups do not divide {heads} heads")


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64 input, float32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32
