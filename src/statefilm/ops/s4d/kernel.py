"""The impulse response of S4D: a Vandermonde product in two levels, whose gradient recomputes it.

With the exponent e_n of a pole and its weight c_n the response at lag l is k_l = 2 Re sum_n c_n
exp(l e_n). Lags are split, l = q S + r, so that the powers of q and of r are made apart and a
matmul over n brings them together: about 2 sqrt(L) exponentials a pole in place of L, and never
a tensor over channels, pairs and lags.

Legend: D channels, N pairs, L lags, Q blocks of S lags.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

RULES = ("zoh", "bilinear")


def budget(device: torch.device) -> int:
    """Numbers of a tensor made on the way: what a CPU's cache holds, or what fills a GPU."""
    return 1 << (20 if device.type == "cpu" else 24)


class _Poles:
    """Discretised poles of some channels, and the moments of a signal under their powers.

    Args:
        dt_D: step sizes.
        A_DN, C_DN: poles and weights, complex.
        length: number of lags.
        rule: of `RULES`.
    """

    def __init__(self, dt_D: Tensor, A_DN: Tensor, C_DN: Tensor, length: int, rule: str) -> None:
        self.dt, self.A, self.C, self.length = dt_D[:, None], A_DN, C_DN, length
        a = self.dt * A_DN
        # Exponent and gain / dt as functions of a, each with its derivative.
        if rule == "zoh":
            self.exponent, self.d_exponent = a, torch.ones_like(a)
            self.gain = torch.expm1(a) / a
            self.d_gain = (a.exp() - self.gain) / a
        else:
            self.gain = 1 / (1 - a / 2)
            self.exponent, self.d_exponent = 2 * torch.atanh(a / 2), 1 / (1 - a.square() / 4)
            self.d_gain = self.gain.square() / 2
        self.weight = C_DN * self.gain * self.dt
        self.size, self.blocks = block_lags(length)
        self.within = self._powers(torch.arange(self.size, device=a.device))
        self.between = self._powers(self.size * torch.arange(self.blocks, device=a.device))

    def _powers(self, lags: Tensor) -> Tensor:
        """exp(lag * exponent), [D, lags, N]."""
        return (lags[:, None] * self.exponent[:, None]).exp_()

    def response(self) -> Tensor:
        """The kernel, [D, L]."""
        weighted = self.weight[:, None] * self.between
        # Re(x y) is the inner product of x and conj(y) as vectors of reals.
        k_DQS = 2 * _reals(weighted) @ _reals(self.within.conj()).mT
        return k_DQS.flatten(1)[:, : self.length]

    def gradients(self, dk_DL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of dt [D], A and C [D, N]."""
        d_weight, d_exponent = 2 * self._moments(dk_DL)
        d_exponent = d_exponent * self.weight.conj()
        d_gain = d_weight * self.C.conj()
        da = d_exponent * self.d_exponent.conj() + d_gain * (self.dt * self.d_gain).conj()
        ddt = (da * self.A.conj() + d_gain * self.gain.conj()).real.sum(1)
        return ddt, da * self.dt, d_weight * (self.gain * self.dt).conj()

    def _moments(self, g_DL: Tensor) -> Tensor:
        """Sums over the lags of g conj(power) and of lag g conj(power), [2, D, N]."""
        lags = torch.arange(self.length, device=g_DL.device)
        g_DXQS = F.pad(
            torch.stack([g_DL, lags * g_DL], dim=1), (0, self.blocks * self.size - self.length)
        ).unflatten(2, (self.blocks, self.size))
        inner = g_DXQS.flatten(1, 2) @ _reals(self.within.conj())
        inner = torch.view_as_complex(inner.unflatten(2, (-1, 2))).unflatten(1, (2, -1))
        return (inner * self.between.conj()[:, None]).sum(2).transpose(0, 1)


def block_lags(length: int) -> tuple[int, int]:
    """Lags of a block, and blocks, near the root of the length."""
    size = math.isqrt(length - 1) + 1
    return size, -(-length // size)


def _reals(z: Tensor) -> Tensor:
    """[..., N] complex as [..., 2 N] real."""
    return torch.view_as_real(z.resolve_conj()).flatten(-2)


def _slices(
    dt: Tensor, A: Tensor, C: Tensor, length: int, rule: str
) -> Iterator[tuple[slice, _Poles]]:
    """The poles of as many channels at a time as `budget` allows, and which channels they are."""
    channels = max(1, budget(dt.device) // (4 * A.shape[1] * sum(block_lags(length))))
    A, C = torch.view_as_complex(A.contiguous()), torch.view_as_complex(C.contiguous())
    for start in range(0, dt.shape[0], channels):
        part = slice(start, start + channels)
        yield part, _Poles(dt[part], A[part], C[part], length, rule)


@torch.library.custom_op("statefilm::s4d_kernel", mutates_args=())
def s4d_kernel(dt: Tensor, A: Tensor, C: Tensor, length: int, rule: str) -> Tensor:
    """The response of each channel to an impulse, [length, dim]; saves its inputs alone.

    Args:
        dt: [dim], float32 or float64 as all.
        A, C: [dim, pairs, 2].
        length: lags, from 0.
        rule: of `RULES`.
    """
    kernel = dt.new_empty(length, dt.shape[0])
    for part, poles in _slices(dt, A, C, length, rule):
        kernel[:, part] = poles.response().mT
    return kernel


@torch.library.custom_op("statefilm::s4d_kernel_backward", mutates_args=())
def _backward(
    dk: Tensor, dt: Tensor, A: Tensor, C: Tensor, length: int, rule: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of dt, A and C."""
    ddt, dA, dC = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (dt, A, C))
    for part, poles in _slices(dt, A, C, length, rule):
        ddt[part], d_pole, d_weight = poles.gradients(dk[:, part].mT)
        dA[part], dC[part] = torch.view_as_real(d_pole), torch.view_as_real(d_weight)
    return ddt, dA, dC


@s4d_kernel.register_fake
def _(dt: Tensor, A: Tensor, C: Tensor, length: int, rule: str) -> Tensor:
    return dt.new_empty(length, dt.shape[0])


@_backward.register_fake
def _(
    dk: Tensor, dt: Tensor, A: Tensor, C: Tensor, length: int, rule: str
) -> tuple[Tensor, Tensor, Tensor]:
    ddt, dA, dC = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (dt, A, C))
    return ddt, dA, dC


def _remember(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    *tensors, ctx.length, ctx.rule = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, dk: Tensor):  # type: ignore[no-untyped-def]
    return *_backward(dk, *ctx.saved_tensors, ctx.length, ctx.rule), None, None


s4d_kernel.register_autograd(_differentiate, setup_context=_remember)
