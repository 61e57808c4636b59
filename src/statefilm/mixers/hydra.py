"""HydraMixer: the bidirectional state-space layer whose mixing matrix is quasiseparable."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statefilm.mixers.layers import GatedRMSNorm, conv_silu, init_dt_bias
from statefilm.ops import quasiseparable


class HydraMixer(nn.Module):
    """Hydra (arXiv 2407.09941), with the published layer's parameter names, shapes and order.

    Both directions share the gate, the values, the convolution, A_log, dt_bias, the norm and the
    projections; each has its own B, C and dt. Decays, step sizes and norms are computed in float32
    whatever the dtype of the weights or of autocast.

    Args:
        dim: width of the tokens.
        state_dim: state size N of each direction.
        head_dim: size of a head; must divide expand * dim.
        expand: inner width over dim.
        groups: groups of heads that share B and C; must divide the number of heads.
        conv_kernel: odd length of the depthwise, non-causal convolution.

    Raises:
        ValueError: sizes that do not divide, or an even kernel.
    """

    def __init__(
        self,
        dim: int,
        state_dim: int = 64,
        head_dim: int = 64,
        expand: int = 2,
        groups: int = 1,
        conv_kernel: int = 7,
    ) -> None:
        super().__init__()
        inner = expand * dim
        if inner % head_dim:
            raise ValueError(f"head_dim {head_dim} does not divide the inner width {inner}")
        heads = inner // head_dim
        if groups < 1 or heads % groups:
            raise ValueError(f"groups {groups} does not divide the {heads} heads")
        if conv_kernel % 2 == 0:
            raise ValueError(f"conv_kernel {conv_kernel} is even; a centred kernel is odd")
        self.inner, self.heads, self.head_dim = inner, heads, head_dim
        self.groups, self.state_dim = groups, state_dim

        conv_dim = inner + 4 * groups * state_dim
        self.in_proj = nn.Linear(dim, inner + conv_dim + 2 * heads, bias=False)
        self.conv1d = nn.Conv1d(
            conv_dim, conv_dim, conv_kernel, padding=conv_kernel // 2, groups=conv_dim
        )
        self.dt_bias = nn.Parameter(init_dt_bias(heads))
        self.A_log = nn.Parameter(torch.zeros(heads))
        self.D = nn.Parameter(torch.ones(heads))
        self.fc_D = nn.Linear(inner, heads, bias=False)
        self.norm = GatedRMSNorm(inner)
        self.out_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, hidden_states: Tensor, *, positions: Tensor | None = None) -> Tensor:
        """Mix [batch, length, dim] along its length; `positions` is not needed and ignored."""
        heads, groups, state = self.heads, self.groups, self.state_dim
        z, xBC, dt = self.in_proj(hidden_states).split(
            [self.inner, self.inner + 4 * groups * state, 2 * heads], dim=-1
        )
        pad = self.conv1d.weight.shape[-1] // 2
        xBC = conv_silu(xBC, self.conv1d, left=pad, right=pad)
        x, BC = xBC.split([self.inner, 4 * groups * state], dim=-1)
        B, C = BC.unflatten(-1, (2, 2, groups, state)).unbind(3)
        dt = F.softplus(dt.unflatten(-1, (2, heads)).float() + self.dt_bias.float())
        y = quasiseparable(
            x.unflatten(-1, (heads, self.head_dim)),
            dt,
            -torch.exp(self.A_log.float()),
            B,
            C,
            self.fc_D(x) + self.D.to(x.dtype),
        )
        return self.out_proj(self.norm(y.flatten(2), z))
