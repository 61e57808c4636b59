"""Layers of the video U-Net: each takes the frames as a grid, and what the clip is conditioned on.

Legend: B batch, T frames, H, W pixels, C channels, E width of the time embedding, S text tokens.
The channels of the grid [B, T, H, W, C] come last: convolutions then see frames in channels-last
form, and a pixel's sequence of T frames is a transpose of whole rows.
"""

import inspect
import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statefilm.mixers import MIXERS, build_mixer, output_layer
from statefilm.mixers.attention import attend
from statefilm.models.blocks import CrossAttention
from statefilm.models.embeddings import linear_float32


class Condition(NamedTuple):
    """What every layer may read: timestep and class after SiLU (float32), and the text states."""

    time_BE: Tensor
    text_BSD: Tensor | None = None
    mask_BS: Tensor | None = None


def on_frames(layer: nn.Module, grid: Tensor) -> Tensor:
    """A two-dimensional layer [N, C, H, W] -> [N, C', H', W'] on every frame of a grid."""
    frames = grid.flatten(0, 1).movedim(-1, 1)
    return layer(frames).movedim(1, -1).unflatten(0, grid.shape[:2])


class ResBlock(nn.Module):
    """Two 3x3 convolutions on each frame; the time embedding scales and shifts the first's output.

    Args:
        dim_in, dim_out: channels.
        time_dim: width E of the time embedding; None for a block that does not read it.
        groups: of the group norms; must divide dim_out.
        norm_over_frames: whether group norms take their statistics over a whole clip.
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        time_dim: int | None,
        groups: int = 8,
        norm_over_frames: bool = False,
    ) -> None:
        super().__init__()
        self.norm_over_frames = norm_over_frames
        self.time_proj = None if time_dim is None else nn.Linear(time_dim, 2 * dim_out)
        self.conv_1 = nn.Conv2d(dim_in, dim_out, 3, padding=1)
        self.norm_1 = nn.GroupNorm(groups, dim_out)
        self.conv_2 = nn.Conv2d(dim_out, dim_out, 3, padding=1)
        self.norm_2 = nn.GroupNorm(groups, dim_out)
        self.shortcut = nn.Identity() if dim_in == dim_out else nn.Linear(dim_in, dim_out)

    def forward(self, grid: Tensor, condition: Condition) -> Tensor:
        """[B, T, H, W, dim_in] -> [B, T, H, W, dim_out]."""
        x = self._norm(self.norm_1, on_frames(self.conv_1, grid))
        if self.time_proj is not None:
            with torch.autocast(x.device.type, enabled=False):
                table = linear_float32(condition.time_BE, self.time_proj)
            scale, shift = table.to(x.dtype)[:, None, None, None].chunk(2, dim=-1)
            x = x * (1 + scale) + shift
        x = self._norm(self.norm_2, on_frames(self.conv_2, F.silu(x)))
        return F.silu(x) + self.shortcut(grid)

    def _norm(self, norm: nn.Module, grid: Tensor) -> Tensor:
        if self.norm_over_frames:
            return norm(grid.movedim(-1, 1)).movedim(1, -1)
        return on_frames(norm, grid)


class SpatialAttention(nn.Module):
    """x + attention(norm(x)) among the pixels of each frame, without positions.

    Args:
        dim: channels.
        heads, head_dim: the inner width is their product, whatever dim is.
        linear: softmax of q over its features and of k over the pixels, then q (k' v)
            (arXiv 1812.01243), so that cost grows linearly with the pixels; else softmax attention.
    """

    def __init__(self, dim: int, heads: int = 8, head_dim: int = 32, linear: bool = True) -> None:
        super().__init__()
        self.heads, self.linear = heads, linear
        self.norm = nn.LayerNorm(dim, bias=False)
        self.in_proj = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.out_proj = nn.Linear(heads * head_dim, dim, bias=linear)

    def forward(self, grid: Tensor, condition: Condition) -> Tensor:
        """[B, T, H, W, C] -> the same; `condition` is not needed."""
        x = self.norm(grid).flatten(0, 1).flatten(1, 2)
        qkv = self.in_proj(x).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()
        y = _attend_linearly(q, k, v) if self.linear else attend(q, k, v)
        return grid + self.out_proj(y.transpose(1, 2).flatten(2)).view(grid.shape)


class TextLayer(nn.Module):
    """x + cross-attention(norm(x), text) for every pixel of every frame."""

    def __init__(self, dim: int, text_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, bias=False)
        self.cross_attention = CrossAttention(dim, text_dim, math.gcd(64, dim))

    def forward(self, grid: Tensor, condition: Condition) -> Tensor:
        """[B, T, H, W, C] -> the same."""
        assert condition.text_BSD is not None
        x = self.norm(grid).flatten(1, 3)
        y = self.cross_attention(x, condition.text_BSD, condition.mask_BS)
        return grid + y.view(grid.shape)


class TemporalLayer(nn.Module):
    """x + mixer(norm(x)), every pixel a sequence of T frames (arXiv 2403.07711, section 4).

    Args:
        dim: channels.
        mixer: a name of `statefilm.mixers.MIXERS`, built with `options` over `width_options`.
        identity_init: start the mixer's last linear layer, its way out, at zero, so that a fresh
            layer is the identity.
    """

    def __init__(
        self, dim: int, mixer: str, options: dict[str, Any], identity_init: bool = False
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, bias=False)
        self.mixer = build_mixer(mixer, dim, **width_options(mixer, dim, options))
        if identity_init:
            for parameter in output_layer(self.mixer).parameters():
                nn.init.zeros_(parameter)

    def forward(self, grid: Tensor, condition: Condition) -> Tensor:
        """[B, T, H, W, C] -> the same; `condition` is not needed."""
        batch, frames, height, width, _ = grid.shape
        x = self.norm(grid).flatten(2, 3).transpose(1, 2).flatten(0, 1)
        positions = F.pad(torch.arange(frames, device=x.device)[:, None], (0, 2))
        y = self.mixer(x, positions=positions).unflatten(0, (batch, height * width))
        return grid + y.transpose(1, 2).unflatten(2, (height, width))


def width_options(mixer: str, dim: int, options: dict[str, Any]) -> dict[str, Any]:
    """A temporal mixer's options for one width, those that are given and what they leave open.

    Heads take the largest power of two up to 64 that divides the mixer's inner width, and plain
    attention is rotated by the frame, without which it would not know the frames' order.
    """
    if mixer not in MIXERS:
        return options
    known = inspect.signature(MIXERS[mixer]).parameters
    chosen: dict[str, Any] = {}
    if "head_dim" in known and "heads" not in known:
        expand = options.get("expand", known["expand"].default) if "expand" in known else 1
        chosen["head_dim"] = math.gcd(64, expand * dim)
    if mixer == "attention":
        chosen["rope"] = "3d"
    return {**chosen, **options}


def _attend_linearly(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q (k' v) of [N, heads, pixels, head_dim]; softmaxes and sums in float32."""
    with torch.autocast(q.device.type, enabled=False):
        weights_q = q.float().softmax(-1) * q.shape[-1] ** -0.5
        weights_k = k.float().softmax(-2)
        return (weights_q @ (weights_k.mT @ v.float())).to(v.dtype)
