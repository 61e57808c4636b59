"""SelfAttentionMixer: softmax attention of every token to every token."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statefilm.mixers.qk_norm import QKNorm
from statefilm.mixers.rope import ROPE_AXES, axis_pairs, rotary_angles, rotate

# Up to so many keys the fused kernel's backward is slower on a CPU than the direct form:
# benchmarks/cpu_studies.py --parts attention-keys.
FEW_KEYS = 128


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention in the form that is fast for so many keys.

    Args:
        q: [batch, heads, queries, head_dim].
        k, v: [batch, heads, keys, head_dim].
        mask: broadcasts to [batch, heads, queries, keys]. Where a bool is False the key is not
            read; numbers are added to the scores.

    Returns:
        [batch, heads, queries, head_dim].
    """
    if q.is_cpu and k.shape[-2] <= FEW_KEYS:
        return direct_attention(q, k, v, mask)
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def direct_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """`attend` as two products with a softmax between them, in float32 at least."""
    scores = q @ k.transpose(-1, -2)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * q.shape[-1] ** -0.5
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, -torch.inf)
    elif mask is not None:
        scores = scores + mask
    return scores.softmax(-1).to(v.dtype) @ v


class SelfAttentionMixer(nn.Module):
    """Multi-head self-attention (arXiv 1706.03762) with optional QK-norm and rotary positions.

    Args:
        dim: width of the tokens.
        head_dim: size of a head; must divide dim.
        qk_norm: RMS-normalise queries and keys, see `QKNorm`.
        rope: None for no positions, "2d" to rotate by (h, w), "3d" by (t, h, w).
        rope_theta: longest period of the rotation over 2 pi, in tokens.

    Raises:
        ValueError: head_dim does not divide dim or cannot be rotated, or rope is unknown.
    """

    def __init__(
        self,
        dim: int,
        head_dim: int = 64,
        qk_norm: bool = True,
        rope: str | None = None,
        rope_theta: float = 10_000.0,
    ) -> None:
        super().__init__()
        if dim % head_dim:
            raise ValueError(f"head_dim {head_dim} does not divide the width {dim}")
        if rope is not None and rope not in ROPE_AXES:
            raise ValueError(f"unknown rope {rope!r}; valid: None, {', '.join(ROPE_AXES)}")
        if rope is not None:
            axis_pairs(head_dim, len(ROPE_AXES[rope]))
        self.head_dim, self.rope, self.rope_theta = head_dim, rope, rope_theta
        self.in_proj = nn.Linear(dim, 3 * dim, bias=False)
        self.norm = QKNorm(head_dim) if qk_norm else None
        self.out_proj = nn.Linear(dim, dim, bias=False)

    def forward(self, hidden_states: Tensor, *, positions: Tensor | None = None) -> Tensor:
        """Mix [batch, length, dim] along its length.

        Args:
            hidden_states: [batch, length, dim].
            positions: [length, 3] integers, (t, h, w) of each token; needed with rope only.

        Raises:
            ValueError: rope is on and positions are missing or of another length.
        """
        qkv = self.in_proj(hidden_states).unflatten(-1, (3, -1, self.head_dim))
        q, k, v = qkv.transpose(1, 3).unbind(2)
        if self.norm is not None:
            q, k = self.norm(q, k)
        if self.rope is not None:
            length = hidden_states.shape[1]
            if positions is None or positions.shape != (length, 3):
                found = None if positions is None else tuple(positions.shape)
                raise ValueError(f"rope needs positions of shape ({length}, 3), not {found}")
            angles = rotary_angles(positions, self.head_dim, ROPE_AXES[self.rope], self.rope_theta)
            q, k = rotate(q, angles), rotate(k, angles)
        y = attend(q, k, v)
        return self.out_proj(y.transpose(1, 2).flatten(2))
