"""Timestep and position embeddings of the denoisers."""

import math

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn


class TimestepEmbedder(nn.Module):
    """Sinusoidal features of the timestep, then an MLP; float32 throughout.

    Args:
        dim: width of the embedding.
        features: number of sinusoidal features.
    """

    def __init__(self, dim: int, features: int = 256) -> None:
        super().__init__()
        self.features = features
        self.linear_1 = nn.Linear(features, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, timestep: Tensor) -> Tensor:
        """timestep [batch] in 0..1000 -> [batch, dim], float32."""
        with torch.autocast(timestep.device.type, enabled=False):
            x = get_timestep_embedding(
                timestep.float(), self.features, flip_sin_to_cos=True, downscale_freq_shift=0
            )
            x = F.silu(linear_float32(x, self.linear_1))
            return linear_float32(x, self.linear_2)


def linear_float32(x: Tensor, linear: nn.Linear) -> Tensor:
    """The layer applied in float32, whatever the dtype of its weights."""
    bias = None if linear.bias is None else linear.bias.float()
    return F.linear(x.float(), linear.weight.float(), bias)


SIDE = 32.0  # of the longer side in continuous coordinates


def sinusoidal_positions(
    grid: tuple[int, int, int], dim: int, device: torch.device, *, continuous: bool = False
) -> Tensor:
    """Absolute sinusoidal codes of a [T, H, W] grid, a third of `dim` for each axis.

    Args:
        continuous: rows and columns are places on a canvas whose longer side is `SIDE`, the same
            for a grid of any size, in place of numbers of tokens.

    Returns:
        [T, H, W, dim], float32; rows and columns take what does not divide by three.
    """
    pairs = dim // 2
    shares = [pairs // 3, (pairs - pairs // 3) // 2, pairs - pairs // 3 - (pairs - pairs // 3) // 2]
    scale = SIDE / max(grid[1:])
    codes = []
    for axis, (length, share) in enumerate(zip(grid, shares, strict=True)):
        if share == 0:
            continue
        rates = torch.exp(-math.log(10000.0) / share * torch.arange(share, device=device))
        places = torch.arange(length, device=device)
        if continuous and axis > 0:
            places = (places + 0.5) * scale
        angles = places[:, None] * rates
        code = torch.cat([angles.sin(), angles.cos()], dim=-1)
        shape = [1, 1, 1, 2 * share]
        shape[axis] = length
        codes.append(code.view(shape).expand(*grid, -1))
    return F.pad(torch.cat(codes, dim=-1), (0, dim % 2))
