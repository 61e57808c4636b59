"""The repeated block of the denoisers: cross-attention, token mixer, feed-forward.

Legend: B batch, L tokens, D width, S text tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statefilm.mixers import build_mixer
from statefilm.mixers.attention import attend
from statefilm.mixers.qk_norm import QKNorm

CROSS, MIXER, FEED_FORWARD = "cross_attention", "mixer", "feed_forward"
# The sublayers of a block in their order, by where the cross-attention stands.
SUBLAYERS = {
    "before": (CROSS, MIXER, FEED_FORWARD),
    "after": (MIXER, CROSS, FEED_FORWARD),
    "none": (MIXER, FEED_FORWARD),
}

# Keys and values of a text in one block, each [B, heads, S, head_dim].
KeysValues = tuple[Tensor, Tensor]


class CrossAttention(nn.Module):
    """Tokens read the text states (arXiv 2502.00972, figure 3).

    Args:
        dim: width of the tokens.
        text_dim: width of the text states; keys and values are projected from it directly.
        head_dim: must divide dim.
    """

    def __init__(self, dim: int, text_dim: int, head_dim: int = 64) -> None:
        super().__init__()
        if dim % head_dim:
            raise ValueError(f"head_dim {head_dim} does not divide dim {dim}")
        self.head_dim = head_dim
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_kv = nn.Linear(text_dim, 2 * dim, bias=False)
        self.norm = QKNorm(head_dim)
        self.to_out = nn.Linear(dim, dim, bias=False)

    def keys_values(self, text_BSD: Tensor) -> KeysValues:
        """What the tokens read of the text states; it depends on nothing else."""
        k, v = self.to_kv(text_BSD).unflatten(-1, (2, -1, self.head_dim)).transpose(1, 3).unbind(2)
        return k, v

    def forward(self, x_BLD: Tensor, text: Tensor | KeysValues, mask_BS: Tensor | None) -> Tensor:
        """Returns [B, L, D]; masked text tokens (False) are not read."""
        q = self.to_q(x_BLD).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        k, v = self.keys_values(text) if isinstance(text, Tensor) else text
        q, k = self.norm(q, k)
        mask = None if mask_BS is None else mask_BS[:, None, None]
        y = attend(q, k, v, mask)
        return self.to_out(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.linear_in = nn.Linear(dim, inner)
        self.linear_out = nn.Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] -> [..., dim]."""
        return self.linear_out(F.gelu(self.linear_in(x), approximate="tanh"))


class HTHBlock(nn.Module):
    """Cross-attention, mixer, feed-forward; each pre-norm and residual.

    Args:
        dim, text_dim: widths of tokens and text states.
        ff_dim: inner width of the feed-forward.
        head_dim: of the cross-attention.
        mixer: a name of `statefilm.mixers.MIXERS`, built with `mixer_options`.
        modulated: whether each sublayer takes shift, scale and gate from the timestep
            (AdaLN-single, arXiv 2310.00426).
        cross_attention: where it stands, a name of `SUBLAYERS`.
    """

    def __init__(
        self,
        dim: int,
        text_dim: int,
        ff_dim: int,
        head_dim: int,
        mixer: str,
        mixer_options: dict[str, object],
        modulated: bool,
        cross_attention: str = "before",
    ) -> None:
        super().__init__()
        self.sublayers = SUBLAYERS[cross_attention]
        if CROSS in self.sublayers:
            self.norm_cross = nn.LayerNorm(dim, eps=1e-6)
            self.cross_attention = CrossAttention(dim, text_dim, head_dim)
        self.norm_mixer = nn.LayerNorm(dim, eps=1e-6)
        self.mixer = build_mixer(mixer, dim, **mixer_options)
        self.norm_ff = nn.LayerNorm(dim, eps=1e-6)
        self.feed_forward = FeedForward(dim, ff_dim)
        if modulated:
            self.modulation = nn.Embedding(3 * len(self.sublayers), dim)

    def forward(
        self,
        hidden_states: Tensor,
        text: Tensor | KeysValues | None,
        mask_BS: Tensor | None,
        time_BMD: Tensor | None,
        positions_L3: Tensor | None,
    ) -> Tensor:
        """One block.

        Args:
            hidden_states: tokens [B, L, D] in the order of the block's scan.
            text: states [B, S, D], or what `cross_attention.keys_values` made of them; None for a
                block without cross-attention.
            mask_BS: true where there is text; None reads all.
            time_BMD: modulates the block when it was built so: M = 3 for each sublayer.
            positions_L3: (t, h, w) of each token, for mixers with rotary positions.
        """
        x = hidden_states
        modulations = self._modulations(time_BMD, x.dtype)
        for sublayer, (shift, scale, gate) in zip(self.sublayers, modulations, strict=True):
            if sublayer == CROSS:
                assert text is not None
                h = _modulate(self.norm_cross(x), shift, scale)
                h = self.cross_attention(h, text, mask_BS)
            elif sublayer == MIXER:
                h = _modulate(self.norm_mixer(x), shift, scale)
                h = self.mixer(h, positions=positions_L3)
            else:
                h = _modulate(self.norm_ff(x), shift, scale)
                h = self.feed_forward(h)
            x = x + _gate(h, gate)
        return x

    def _modulations(
        self, time_BMD: Tensor | None, dtype: torch.dtype
    ) -> list[tuple[Tensor | None, Tensor | None, Tensor | None]]:
        """Shift, scale and gate of each sublayer, each [B, 1, D]."""
        if time_BMD is None:
            return [(None, None, None)] * len(self.sublayers)
        table = (self.modulation.weight.float() + time_BMD).to(dtype)
        shift, scale, gate = table[:, :, None].unflatten(1, (3, -1)).unbind(1)
        return list(zip(shift.unbind(1), scale.unbind(1), gate.unbind(1), strict=True))


def _modulate(x: Tensor, shift: Tensor | None, scale: Tensor | None) -> Tensor:
    return x if shift is None or scale is None else x * (1 + scale) + shift


def _gate(x: Tensor, gate: Tensor | None) -> Tensor:
    return x if gate is None else x * (1 + gate)
