"""S6Mixer: Mamba's selective scan along the sequence and, beside it, against it."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statefilm.mixers.layers import conv_silu, init_dt_bias
from statefilm.ops import selective_scan


class S6Mixer(nn.Module):
    """Mamba (arXiv 2312.00752), bidirectional as in video diffusion (arXiv 2403.07711).

    The directions share the gate, the values and the projections in and out; each has its own
    convolution, causal in its own sense, step sizes, B, C, rates and skip. Their outputs are gated
    and added, so a token meets itself in both. Nothing is flipped: the second direction looks and
    walks the other way, its kernel stored in the order of the sequence.

    Decays, step sizes and states are computed in float32 under autocast and also when the module is
    cast to a narrower dtype, which then only narrows how its parameters are stored.

    Args:
        dim: width of the tokens.
        state_dim: state size of each channel.
        expand: inner width over dim.
        conv_kernel: length of the depthwise convolutions.
        dt_rank: rank of the map to step sizes; None for the inner width over 16, rounded up.
        bidirectional: False leaves the first direction alone: the causal form.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(
        self,
        dim: int,
        state_dim: int = 16,
        expand: int = 2,
        conv_kernel: int = 4,
        dt_rank: int | None = None,
        bidirectional: bool = True,
    ) -> None:
        super().__init__()
        inner = expand * dim
        rank = math.ceil(inner / 16) if dt_rank is None else dt_rank
        sizes = {"state_dim": state_dim, "expand": expand, "conv_kernel": conv_kernel}
        for name, size in (sizes | {"dt_rank": rank}).items():
            if size < 1:
                raise ValueError(f"{name} {size} is below 1")
        self.inner, self.state_dim, self.bidirectional = inner, state_dim, bidirectional
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.directions = nn.ModuleList(
            Direction(inner, state_dim, conv_kernel, rank, reverse)
            for reverse in ([False, True] if bidirectional else [False])
        )
        self.out_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, hidden_states: Tensor, *, positions: Tensor | None = None) -> Tensor:
        """Mix [batch, length, dim] along its length; `positions` is not needed and ignored."""
        x, gate = self.in_proj(hidden_states).chunk(2, dim=-1)
        first, *others = [direction(x) for direction in self.directions]
        return self.out_proj(sum(others, first) * F.silu(gate))


class Direction(nn.Module):
    """Convolution and selective scan one way along [batch, length, inner]; `S6Mixer` says more.

    Args:
        inner: channels.
        state_dim: state size of each.
        conv_kernel: the token itself and those before it in the walk that a token sees.
        dt_rank: rank of the map to step sizes.
        reverse: walk from the last token to the first.
    """

    def __init__(
        self, inner: int, state_dim: int, conv_kernel: int, dt_rank: int, reverse: bool
    ) -> None:
        super().__init__()
        self.sizes, self.reverse = [dt_rank, state_dim, state_dim], reverse
        self.conv1d = nn.Conv1d(inner, inner, conv_kernel, groups=inner)
        self.x_proj = nn.Linear(inner, dt_rank + 2 * state_dim, bias=False)
        # torch's own initialisation is Mamba's: uniform within 1 / sqrt(dt_rank).
        self.dt_proj = nn.Linear(dt_rank, inner, bias=False)
        self.dt_bias = nn.Parameter(init_dt_bias(inner))
        self.A_log = nn.Parameter(torch.arange(1.0, state_dim + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, inner] to the same, in the dtype of x."""
        reach = self.conv1d.kernel_size[0] - 1
        left, right = (0, reach) if self.reverse else (reach, 0)
        x = conv_silu(x, self.conv1d, left=left, right=right)
        dt, B, C = self.x_proj(x).split(self.sizes, dim=-1)
        dt = F.softplus(self.dt_proj(dt).float() + self.dt_bias.float())
        rates = -torch.exp(self.A_log.float())
        return selective_scan(x, dt, rates, B, C, self.D, reverse=self.reverse)
