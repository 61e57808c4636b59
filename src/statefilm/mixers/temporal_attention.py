"""The two attentions of video U-Nets along time: softmax with relative positions, and linear."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statefilm.mixers.attention import attend
from statefilm.mixers.rope import axis_pairs, rotary_angles, rotate


class TemporalAttentionMixer(nn.Module):
    """Softmax attention along time of the video diffusion U-Net (Ho et al., arXiv 2204.03458).

    Rotary positions on queries and keys (arXiv 2104.09864), and T5's relative position bias
    (arXiv 1910.10683, section 2.1) on the scores: one learned number a head for each bucket of
    distances, zero at the start. The position of a token is its index in the sequence.

    Args:
        dim: width of the tokens.
        heads, head_dim: of the attention; their product need not be dim.
        rotary: rotate queries and keys.
        relative_bias: add the bias.
        buckets: of distances, half of them for later tokens; a multiple of 4. One half of a side
            holds a distance each, the other half grows with the logarithm of the distance.
        max_distance: distances from there on share the last bucket of their side.

    Raises:
        ValueError: sizes below 1, a head_dim that cannot be rotated, or buckets that cannot be cut.
    """

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        head_dim: int = 64,
        rotary: bool = True,
        relative_bias: bool = True,
        buckets: int = 32,
        max_distance: int = 32,
    ) -> None:
        super().__init__()
        _check_heads(heads, head_dim)
        if rotary:
            axis_pairs(head_dim, 1)
        if relative_bias and (buckets < 4 or buckets % 4):
            raise ValueError(f"buckets {buckets} is not a multiple of 4")
        if relative_bias and max_distance <= buckets // 4:
            raise ValueError(
                f"max_distance {max_distance} is not above {buckets // 4}, buckets of one distance"
            )
        self.heads, self.head_dim, self.rotary = heads, head_dim, rotary
        self.buckets, self.max_distance = buckets, max_distance
        self.in_proj = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.relative_bias = nn.Parameter(torch.zeros(buckets, heads)) if relative_bias else None
        self.out_proj = nn.Linear(heads * head_dim, dim, bias=False)

    def forward(self, hidden_states: Tensor, *, positions: Tensor | None = None) -> Tensor:
        """Mix [batch, length, dim] along its length; `positions` is not needed and ignored."""
        q, k, v = _by_head(self.in_proj(hidden_states), self.head_dim)
        frames = torch.arange(hidden_states.shape[1], device=hidden_states.device)
        if self.rotary:
            angles = rotary_angles(frames[:, None], self.head_dim, (0,))
            q, k = rotate(q, angles), rotate(k, angles)
        bias = None
        if self.relative_bias is not None:
            bucket = relative_bucket(frames - frames[:, None], self.buckets, self.max_distance)
            bias = F.embedding(bucket, self.relative_bias.float()).permute(2, 0, 1).contiguous()
        y = attend(q, k, v, bias)
        return self.out_proj(y.transpose(1, 2).flatten(2))


class TemporalLinearAttentionMixer(nn.Module):
    """Efficient attention along time (arXiv 1812.01243, equation 3): linear in the length.

    Softmax of the queries over their features and of the keys over time makes the weights of each
    output sum to one without the matrix of all pairs. Softmax and sums are float32 under autocast
    and when the module is cast to a narrower dtype.

    Args:
        dim: width of the tokens.
        heads, head_dim: of the attention; their product need not be dim.

    Raises:
        ValueError: sizes below 1.
    """

    def __init__(self, dim: int, heads: int = 8, head_dim: int = 64) -> None:
        super().__init__()
        _check_heads(heads, head_dim)
        self.heads, self.head_dim = heads, head_dim
        self.in_proj = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.out_proj = nn.Linear(heads * head_dim, dim, bias=False)

    def forward(self, hidden_states: Tensor, *, positions: Tensor | None = None) -> Tensor:
        """Mix [batch, length, dim] along its length; `positions` is not needed and ignored."""
        q, k, v = _by_head(self.in_proj(hidden_states), self.head_dim)
        with torch.autocast(q.device.type, enabled=False):
            weights = F.softmax(k, dim=-2, dtype=torch.float32)
            y = F.softmax(q, dim=-1, dtype=torch.float32) @ (weights.mT @ v.float())
        return self.out_proj(y.to(v.dtype).transpose(1, 2).flatten(2))


def relative_bucket(distance: Tensor, buckets: int, max_distance: int) -> Tensor:
    """T5's buckets of whole distances, key minus query: earlier keys first, then later ones."""
    side = buckets // 2
    exact = side // 2
    far = distance.abs()
    growth = torch.log(far.clamp_min(exact) / exact) / math.log(max_distance / exact)
    shared = (exact + (growth * (side - exact)).long()).clamp_max(side - 1)
    return torch.where(far < exact, far, shared) + side * (distance > 0)


def _by_head(qkv: Tensor, head_dim: int) -> tuple[Tensor, ...]:
    """Queries, keys and values, [batch, heads, length, head_dim] each."""
    return qkv.unflatten(-1, (3, -1, head_dim)).transpose(1, 3).unbind(2)


def _check_heads(heads: int, head_dim: int) -> None:
    for name, value in (("heads", heads), ("head_dim", head_dim)):
        if value < 1:
            raise ValueError(f"{name} {value} is below 1")
