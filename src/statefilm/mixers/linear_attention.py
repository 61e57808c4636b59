"""LinearAttentionMixer: attention whose softmax is a positive feature map, linear in the length."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statefilm.mixers.layers import GatedRMSNorm
from statefilm.mixers.qk_norm import QKNorm


class LinearAttentionMixer(nn.Module):
    """Bidirectional linear attention with a gated output.

    ``y_i = f(q_i)' M / f(q_i)' s`` with ``M = sum_j f(k_j) v_j'`` and ``s = sum_j f(k_j)`` over the
    whole sequence, ``f = 1 + ELU`` (Katharopoulos et al., arXiv 2006.16236, equations 5 and 7),
    then ``RMSNorm(y) * SiLU(gate)`` as in gated linear attention (arXiv 2312.06635, section 4.4).
    The sums over the length and what is read from them are float32 under autocast and when the
    module is cast to a narrower dtype.

    Args:
        dim: width of the tokens.
        head_dim: size of a head; must divide dim.
        qk_norm: RMS-normalise queries and keys before the feature map, see `QKNorm`.

    Raises:
        ValueError: head_dim does not divide dim.
    """

    def __init__(self, dim: int, head_dim: int = 64, qk_norm: bool = True) -> None:
        super().__init__()
        if dim % head_dim:
            raise ValueError(f"head_dim {head_dim} does not divide the width {dim}")
        self.head_dim = head_dim
        self.in_proj = nn.Linear(dim, 4 * dim, bias=False)
        self.qk_norm = QKNorm(head_dim) if qk_norm else None
        self.norm = GatedRMSNorm(dim)
        self.out_proj = nn.Linear(dim, dim, bias=False)

    def forward(self, hidden_states: Tensor, *, positions: Tensor | None = None) -> Tensor:
        """Mix [batch, length, dim] along its length; `positions` is not needed and ignored."""
        *qkv, gate = self.in_proj(hidden_states).chunk(4, dim=-1)
        q, k, v = (t.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for t in qkv)
        if self.qk_norm is not None:
            q, k = self.qk_norm(q, k)
        y = attend_linearly(q, k, v).transpose(1, 2).flatten(2)
        return self.out_proj(self.norm(y, gate))


def attend_linearly(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Average v [batch, heads, length, head_dim] with the weights f(q_i)' f(k_j), in float32."""
    with torch.autocast(q.device.type, enabled=False):
        q, k, v = 1 + F.elu(q.float()), 1 + F.elu(k.float()), v.float()
        # The mean in place of the sum keeps both terms of the quotient near 1 at any length.
        k = k / k.shape[2]
        normaliser = q @ k.sum(2)[..., None]
        return q @ (k.mT @ v) / normaliser.clamp_min(torch.finfo(torch.float32).tiny)
