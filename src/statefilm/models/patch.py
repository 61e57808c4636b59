"""Between frames and the grid of tokens: plain patches, and a convolutional stem and head.

Space is handled frame by frame; time is merged in groups of `patch_t` frames with the first frame
on its own (as causal video VAEs do), so one set of weights takes images and clips of 1 + k*patch_t
frames. Legend: B batch, C channels, T frames, H, W pixels, N = B*T, h, w token rows and columns.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statefilm.models.embeddings import linear_float32


class PlainPatch(nn.Module):
    """Space to depth and back: [N, C, H, W] <-> [N, h, w, C * patch_h * patch_w]; no weights.

    Args:
        in_channels, out_channels: channels of the frames that go in and come out.
        patch: (patch_h, patch_w).
    """

    def __init__(self, in_channels: int, out_channels: int, patch: tuple[int, int]) -> None:
        super().__init__()
        self.patch, self.out_channels = patch, out_channels
        self.in_features = in_channels * patch[0] * patch[1]
        self.out_features = out_channels * patch[0] * patch[1]

    def encode(self, frames: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Frames to features; the second value, for `decode`, is empty."""
        p, q = self.patch
        x = frames.unflatten(3, (-1, q)).unflatten(2, (-1, p))  # N C h p w q
        return x.permute(0, 2, 4, 1, 3, 5).flatten(3), []

    def decode(self, features: Tensor, skips: list[Tensor], time_ND: Tensor) -> Tensor:
        """Features [N, h, w, out_features] to frames [N, out_channels, H, W]."""
        p, q = self.patch
        x = features.unflatten(3, (self.out_channels, p, q))  # N h w C p q
        return x.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)

    def init_output(self, token_out: nn.Linear) -> None:
        """Let the model start by predicting zero."""
        nn.init.zeros_(token_out.weight)
        nn.init.zeros_(token_out.bias)


class ConvPatch(nn.Module):
    """A convolutional pyramid down to the tokens and back up, joined level by level.

    For pixels, where plain patches leave seams. The width doubles as the side halves.

    Args:
        in_channels, out_channels: channels of the frames that go in and come out.
        patch: (patch_h, patch_w), equal powers of two, 2 or more.
        width: channels at full resolution.
        time_dim: width of the timestep's embedding, which then scales what goes past the tokens
            and shifts what is joined with it, so that noise is let through only where there is
            little; 0 leaves the timestep out.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        patch: tuple[int, int],
        width: int = 16,
        time_dim: int = 0,
    ) -> None:
        super().__init__()
        side = patch[0]
        if patch[1] != side or side < 2 or side & (side - 1):
            raise ValueError(
                f"a convolutional patch needs equal powers of two >= 2, got {patch[0]}x{patch[1]}"
            )
        widths = [width * 2**level for level in range(side.bit_length())]
        self.in_features = self.out_features = widths[-1]
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1)
        steps = list(pairwise(widths))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in steps)
        self.up = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in reversed(steps))
        self.merge = nn.ModuleList(nn.Conv2d(a, a, 3, padding=1) for a, _ in reversed(steps))
        self.head = nn.Conv2d(width, out_channels, 3, padding=1)
        # Of each level of `decode`: the scale of the skip, and scale and shift of the sum.
        self.shares = [3 * a for a, _ in reversed(steps)]
        self.modulation = nn.Linear(time_dim, sum(self.shares)) if time_dim else None

    def encode(self, frames: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Frames to features [N, h, w, in_features] and the maps of each level above."""
        x = F.silu(self.stem(frames))
        skips = []
        for down in self.down:
            skips.append(x)
            x = F.silu(down(x))
        return x.permute(0, 2, 3, 1), skips

    def decode(self, features: Tensor, skips: list[Tensor], time_ND: Tensor) -> Tensor:
        """Features [N, h, w, out_features] and `encode`'s maps to frames [N, C, H, W].

        `time_ND` is the timestep's embedding of each frame, float32.
        """
        x = features.permute(0, 3, 1, 2)
        levels = zip(self.up, self.merge, reversed(skips), self._modulate(time_ND), strict=True)
        for up, merge, skip, (through, scale, shift) in levels:
            x = F.pixel_shuffle(up(x), 2) + skip * (1 + through)
            x = x + F.silu(merge(F.silu(x * (1 + scale) + shift)))
        return self.head(F.silu(x))

    def _modulate(self, time_ND: Tensor) -> list[tuple[Tensor | float, ...]]:
        """Three factors or shifts of each level, [N, C, 1, 1]."""
        if self.modulation is None:
            return [(0.0, 0.0, 0.0)] * len(self.shares)
        with torch.autocast(time_ND.device.type, enabled=False):
            table = linear_float32(F.silu(time_ND), self.modulation)
        parts = table.to(self.head.weight.dtype)[..., None, None].split(self.shares, 1)
        return [part.chunk(3, 1) for part in parts]

    def init_output(self, token_out: nn.Linear) -> None:
        """Let the model start by predicting zero, with a neutral modulation."""
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)
        nn.init.zeros_(self.head.weight)
        if self.head.bias is not None:
            nn.init.zeros_(self.head.bias)


def merge_time(x: Tensor, patch_t: int) -> Tensor:
    """[B, T, h, w, C] -> [B, 1 + (T-1)/patch_t, h, w, patch_t * C], the first frame repeated."""
    if patch_t == 1:
        return x
    x = torch.cat([x[:, :1].expand(-1, patch_t - 1, -1, -1, -1), x], dim=1)
    return x.unflatten(1, (-1, patch_t)).permute(0, 1, 3, 4, 2, 5).flatten(4)


def split_time(x: Tensor, patch_t: int) -> Tensor:
    """Inverse of `merge_time`; of the first group only the last slot is a frame."""
    if patch_t == 1:
        return x
    x = x.unflatten(4, (patch_t, -1)).permute(0, 1, 4, 2, 3, 5).flatten(1, 2)
    return x[:, patch_t - 1 :]
