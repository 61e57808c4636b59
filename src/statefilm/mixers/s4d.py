"""S4DMixer: diagonal state spaces with fixed parameters, along the sequence and against it."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statefilm.ops import s4d


class S4D(nn.Module):
    """The state space of one direction, started as S4D-Lin (arXiv 2206.11893, section 4).

    Its parameters are plain ones, so weight decay leaves them alone. They are read as float32
    whatever they are stored in; A_imag spans a range that bfloat16 cannot hold to a unit.

    Args:
        dim: channels, each with a state of its own.
        state_dim: real size N of a state, N / 2 complex pairs.
        dt_min, dt_max: range of the step sizes at the start, log-uniform.
    """

    def __init__(self, dim: int, state_dim: int, dt_min: float, dt_max: float) -> None:
        super().__init__()
        pairs = state_dim // 2
        low, high = math.log(dt_min), math.log(dt_max)
        self.log_dt = nn.Parameter(low + (high - low) * torch.rand(dim))
        self.log_A_real = nn.Parameter(torch.full((dim, pairs), math.log(0.5)))
        self.A_imag = nn.Parameter(math.pi * torch.arange(pairs).repeat(dim, 1))
        self.C = nn.Parameter(torch.randn(dim, pairs, 2) / math.sqrt(2))
        self.D = nn.Parameter(torch.randn(dim))

    def forward(self, hidden_states: Tensor, *, reverse: bool = False) -> Tensor:
        """Pass [batch, length, dim] along its length, or with `reverse` against it."""
        A = torch.stack([-self.log_A_real.float().exp(), self.A_imag.float()], dim=-1)
        dt, C, D = self.log_dt.float().exp(), self.C.float(), self.D.float()
        return s4d(hidden_states, dt, A, C, D, reverse=reverse)


class S4DMixer(nn.Module):
    """The bidirectional S4D layer of "SSM meets video diffusion" (arXiv 2403.07711).

    Each direction passes its own state space, GELU, and a linear layer with a gated linear unit;
    the directions are added and pass a small MLP. Kernels and spectra are float32 under autocast
    and when the module is cast to a narrower dtype.

    Args:
        dim: width of the tokens.
        state_dim: real size N of a channel's state in each direction, even.
        hidden_dim: width inside the MLP.
        bidirectional: False leaves the forward direction alone, which is causal.
        dt_min, dt_max: range of the step sizes at the start, in which they are log-uniform.

    Raises:
        ValueError: sizes below 1, an odd state_dim, or an empty range.
    """

    def __init__(
        self,
        dim: int,
        state_dim: int = 512,
        hidden_dim: int = 512,
        bidirectional: bool = True,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
    ) -> None:
        super().__init__()
        if state_dim < 2 or state_dim % 2:
            raise ValueError(f"state_dim {state_dim} is not even and at least 2")
        if hidden_dim < 1:
            raise ValueError(f"hidden_dim {hidden_dim} is below 1")
        if not 0 < dt_min <= dt_max:
            raise ValueError(f"dt_min {dt_min} and dt_max {dt_max} are not 0 < dt_min <= dt_max")
        ways = 2 if bidirectional else 1
        self.s4d = nn.ModuleList(S4D(dim, state_dim, dt_min, dt_max) for _ in range(ways))
        self.glu = nn.ModuleList(nn.Linear(dim, 2 * dim) for _ in range(ways))
        self.mlp = nn.Sequential(nn.Linear(dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, dim))

    def forward(self, hidden_states: Tensor, *, positions: Tensor | None = None) -> Tensor:
        """Mix [batch, length, dim] along its length; `positions` is not needed and ignored."""
        ways = [
            F.glu(glu(F.gelu(space(hidden_states, reverse=way == 1))))
            for way, (space, glu) in enumerate(zip(self.s4d, self.glu, strict=True))
        ]
        return self.mlp(ways[0] + ways[1] if len(ways) == 2 else ways[0])
