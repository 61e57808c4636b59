"""Small parts that several mixers share: gated norm, depthwise convolution, step-size bias."""

import math
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GatedRMSNorm(nn.Module):
    """RMSNorm(y) * SiLU(gate), statistics in float32 (Hydra, arXiv 2407.09941: norm before gate).

    Args:
        dim: size of the last axis, over which the root mean square is taken.
        eps: added to the mean square.
    """

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, y: Tensor, gate: Tensor) -> Tensor:
        """Both [..., dim]; returns the dtype of the gate."""
        if _fused(y):
            from statefilm.ops.fused.gated_norm import gated_norm

            return gated_norm(y, gate, self.weight, self.eps)
        y32 = y.float()
        y32 = y32 * torch.rsqrt(y32.square().mean(-1, keepdim=True) + self.eps)
        return (y32 * self.weight.float() * F.silu(gate.float())).to(gate.dtype)


def conv_silu(x: Tensor, conv: nn.Conv1d, *, left: int, right: int) -> Tensor:
    """SiLU of `depthwise_conv`; as long as x where left and right make up the kernel."""
    if _fused(x) and conv.bias is not None and left + right + 1 == conv.kernel_size[0]:
        from statefilm.ops.fused.conv_silu import conv_silu

        return conv_silu(x, conv.weight[:, 0], conv.bias, left)
    return F.silu(depthwise_conv(x, conv, left=left, right=right))


def _fused(x: Tensor) -> bool:
    """Whether to run elementwise steps as one kernel; torch.compile fuses them by itself."""
    return x.is_cuda and not torch.compiler.is_compiling() and find_spec("triton") is not None


def depthwise_conv(x: Tensor, conv: nn.Conv1d, *, left: int, right: int) -> Tensor:
    """Depthwise convolution along the length of [batch, length, channels], zero-padded."""
    channels, length = x.shape[2], x.shape[1]
    padded = F.pad(x, (0, 0, left, right))
    if torch.compiler.is_compiling():
        # A sum of shifted products fuses with its neighbours; a convolution would not. Taps lie in
        # rows, since loops over the channels of a strided tap would not be vectorized.
        taps = conv.weight[:, 0].mT.contiguous().float()
        shifted = (padded[:, k : k + length].float() * tap for k, tap in enumerate(taps.unbind()))
        y = sum(shifted, torch.zeros(()) if conv.bias is None else conv.bias.float())
        return y.to(x.dtype)
    weight = conv.weight.to(x.dtype)
    bias = None if conv.bias is None else conv.bias.to(x.dtype)
    # As a 2-D convolution of height one: CPUs have a fast kernel for it, and none for 1-D.
    y = F.conv2d(padded.mT.unsqueeze(2), weight.unsqueeze(2), bias, groups=channels)
    return y.squeeze(2).mT


def init_dt_bias(
    heads: int, dt_min: float = 1e-3, dt_max: float = 1e-1, dt_floor: float = 1e-4
) -> Tensor:
    """Biases [heads] whose softplus is log-uniform in [dt_min, dt_max] (arXiv 2312.00752)."""
    dt = torch.exp(torch.rand(heads) * (math.log(dt_max) - math.log(dt_min)) + math.log(dt_min))
    dt = dt.clamp_min(dt_floor)
    return dt + torch.log(-torch.expm1(-dt))
