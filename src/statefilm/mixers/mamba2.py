"""BiMamba2Mixer: two Mamba-2 scans, one along the sequence and one against it, added."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statefilm.mixers.layers import GatedRMSNorm, conv_silu, init_dt_bias
from statefilm.ops import ssd


class BiMamba2Mixer(nn.Module):
    """Bidirectional Mamba-2 by addition (arXiv 2405.21060; the "Add" form of arXiv 2407.09941).

    The directions share values, gate, norm and projections; each has its own causal convolution,
    B, C, step sizes, decay rates and skip. Their outputs are added as they are, without the shift
    of Hydra, so a token meets itself in both. Both scans are one call: the reversed sequence joins
    as further heads. Parameters of both directions lie behind one another, forward first.

    Decays, step sizes, states and norms are computed in float32 under autocast and also when the
    module is cast to a narrower dtype, which then only narrows how its parameters are stored.

    Args:
        dim: width of the tokens.
        state_dim: state size N of each direction.
        head_dim: size of a head; must divide expand * dim.
        expand: inner width over dim.
        groups: groups of heads that share B and C; must divide the number of heads.
        conv_kernel: length of the depthwise convolution, causal in the scan's own direction.

    Raises:
        ValueError: sizes that do not divide, or a kernel below 1.
    """

    def __init__(
        self,
        dim: int,
        state_dim: int = 64,
        head_dim: int = 64,
        expand: int = 2,
        groups: int = 1,
        conv_kernel: int = 4,
    ) -> None:
        super().__init__()
        inner = expand * dim
        if inner % head_dim:
            raise ValueError(f"head_dim {head_dim} does not divide the inner width {inner}")
        heads = inner // head_dim
        if groups < 1 or heads % groups:
            raise ValueError(f"groups {groups} does not divide the {heads} heads")
        if conv_kernel < 1:
            raise ValueError(f"conv_kernel {conv_kernel} is below 1")
        self.inner, self.heads, self.head_dim = inner, heads, head_dim
        self.groups, self.state_dim = groups, state_dim

        BC_dim = 2 * groups * state_dim
        conv_dim = 2 * (inner + BC_dim)
        self.in_proj = nn.Linear(dim, 2 * inner + 2 * BC_dim + 2 * heads, bias=False)
        self.conv1d = nn.Conv1d(conv_dim, conv_dim, conv_kernel, groups=conv_dim)
        self.dt_bias = nn.Parameter(init_dt_bias(2 * heads))
        self.A_log = nn.Parameter(torch.zeros(2 * heads))
        self.D = nn.Parameter(torch.ones(2 * heads))
        self.norm = GatedRMSNorm(inner)
        self.out_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, hidden_states: Tensor, *, positions: Tensor | None = None) -> Tensor:
        """Mix [batch, length, dim] along its length; `positions` is not needed and ignored."""
        heads, groups, state = self.heads, self.groups, self.state_dim
        BC_dim = 2 * groups * state
        z, x, BC_f, BC_b, dt_f, dt_b = self.in_proj(hidden_states).split(
            [self.inner, self.inner, BC_dim, BC_dim, heads, heads], dim=-1
        )
        # The reversed sequence lies beside the other, so that both run in the same direction.
        xBC = torch.cat([x, BC_f, torch.cat([x, BC_b], dim=-1).flip(1)], dim=-1)
        xBC = conv_silu(xBC, self.conv1d, left=self.conv1d.kernel_size[0] - 1, right=0)
        x, BC = xBC.unflatten(-1, (2, -1)).split([self.inner, BC_dim], dim=-1)
        x = x.flatten(2).unflatten(-1, (2 * heads, self.head_dim))
        B, C = BC.unflatten(-1, (2, groups, state)).unbind(3)
        dt = F.softplus(torch.cat([dt_f, dt_b.flip(1)], dim=-1).float() + self.dt_bias.float())
        y = ssd(x, dt, -torch.exp(self.A_log.float()), B.flatten(2, 3), C.flatten(2, 3))
        y = y + self.D.to(x.dtype)[:, None] * x
        forward, backward = y.unflatten(2, (2, heads)).flatten(3).unbind(2)
        return self.out_proj(self.norm(forward + backward.flip(1), z))
