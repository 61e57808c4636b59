"""The ops that are compared, with inputs laid out as the mixers lay them out.

Legend: B batch, L length, H heads, G groups, P head size, N state size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from statefilm.evaluation.speed.floors import OpShape
from statefilm.mixers.linear_attention import attend_linearly
from statefilm.ops import quasiseparable, ssd
from statefilm.ops.quasiseparable import BACKENDS

BASE = "quasiseparable"  # what the others are compared with
ONLY_ON = {"triton": "cuda", "native": "cpu"}
DT_RANGE = (1e-3, 1e-1)  # as step sizes are initialised

Inputs = dict[str, Tensor]
Op = Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class Contestant:
    """An op under the name it has in tables.

    Attributes:
        op: what it computes, a name of `floors.OPS`; decides about inputs and floor.
        run: takes `draw(op, ...)` as keywords.
    """

    name: str
    op: str
    run: Op

    @property
    def growth(self) -> int:
        """The power of the length that its time grows with."""
        return 2 if self.op == "sdpa" else 1


def contestants(device: torch.device) -> list[Contestant]:
    """All that can be compared on a kind of device; `agreement.check` finds which of them run."""
    found = [Contestant(BASE, "quasiseparable", quasiseparable)]
    for name in BACKENDS:
        if ONLY_ON.get(name, device.type) == device.type and name != "reference":
            run = partial(quasiseparable, backend=name)
            found.append(Contestant(f"quasiseparable {name}", "quasiseparable", run))
    found.append(Contestant("flip", "quasiseparable", by_shift_and_flip))
    on_cuda = device.type == "cuda"
    if on_cuda and find_spec("mamba_ssm") is not None:
        run = partial(by_shift_and_flip, scan=_mamba_scan)
        found.append(Contestant("flip mamba_ssm", "quasiseparable", run))
    found.append(Contestant("sdpa", "sdpa", _sdpa))
    if on_cuda:
        for name, kernel in (
            ("flash", SDPBackend.FLASH_ATTENTION),
            ("cudnn", SDPBackend.CUDNN_ATTENTION),
        ):
            found.append(Contestant(f"sdpa {name}", "sdpa", partial(_sdpa_with, kernel)))
    found.append(Contestant("linear attention", "linear attention", attend_linearly))
    return found


def by_shift_and_flip(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    scan: Callable[..., Any] = ssd,
) -> Tensor:
    """`quasiseparable` out of two causal scans, as published with Hydra (arXiv 2407.09941).

    One runs over the sequence and one over its mirror image, and each output is moved on by one
    token: QS(X) = shift(SS(X)) + flip(shift(SS(flip(X)))) + D X.
    """
    forward = _shift(scan(x, dt[:, :, 0], A, B[:, :, 0], C[:, :, 0]))
    dt_b, B_b, C_b = (t[:, :, 1].flip(1) for t in (dt, B, C))
    y = forward + _shift(scan(x.flip(1), dt_b, A, B_b, C_b)).flip(1)
    return y if D is None else y + D[..., None] * x


def draw(
    op: str, shape: OpShape, dtype: torch.dtype, device: torch.device, *, seed: int = 0
) -> Inputs:
    """Random inputs of an op: views of projections, as in a mixer, each a leaf for autograd."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*sizes: int) -> Tensor:
        numbers = torch.randn(shape.batch, shape.length, *sizes, device=device, generator=generator)
        return numbers.to(dtype)

    if op == "quasiseparable":
        inputs = _state_space_inputs(shape, normal, generator)
    else:
        qkv = normal(3, shape.heads, shape.head_dim).transpose(1, 3)
        names = ("q", "k", "v") if op == "linear attention" else ("query", "key", "value")
        inputs = dict(zip(names, qkv.unbind(2), strict=True))
    return {name: tensor.detach().requires_grad_() for name, tensor in inputs.items()}


def _state_space_inputs(
    shape: OpShape, normal: Callable[..., Tensor], generator: torch.Generator
) -> Inputs:
    """x [B, L, H, P], dt [B, L, 2, H], A [H], B and C [B, L, 2, G, N], D [B, L, H]."""
    heads, groups, state = shape.heads, shape.groups, shape.state_dim
    x, BC = normal(shape.dim + 4 * groups * state).split([shape.dim, 4 * groups * state], dim=-1)
    B, C = BC.unflatten(-1, (2, 2, groups, state)).unbind(3)
    low, high = map(math.log, DT_RANGE)
    uniform = torch.rand(shape.batch, shape.length, 2, heads, device=x.device, generator=generator)
    A = -torch.rand(heads, device=x.device, generator=generator) - 0.5
    return {
        "x": x.unflatten(-1, (heads, shape.head_dim)),
        "dt": torch.exp(low + (high - low) * uniform),
        "A": A,
        "B": B,
        "C": C,
        "D": normal(heads),
    }


def forward(op: Op, inputs: Mapping[str, Tensor]) -> Tensor:
    """One call without gradients."""
    with torch.no_grad():
        return op(**inputs)


def forward_backward(op: Op, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """One call and the gradients of all its inputs; the output serves as its own gradient."""
    y = op(**inputs)
    return torch.autograd.grad(y, list(inputs.values()), y.detach())


def _shift(y: Tensor) -> Tensor:
    return F.pad(y[:, :-1], (0, 0) * (y.dim() - 2) + (1, 0))


def _sdpa(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value)


def _sdpa_with(kernel: SDPBackend, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    with sdpa_kernel(kernel):
        return F.scaled_dot_product_attention(query, key, value)


def _mamba_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The Triton kernel of the mamba-ssm package."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    return mamba_chunk_scan_combined(x, dt, A, B, C, chunk_size=256)
