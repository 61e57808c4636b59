"""Rotary position embedding over the axes of a [T, H, W] grid of tokens."""

import torch
from torch import Tensor

# Which columns of a position (t, h, w) turn the features.
ROPE_AXES: dict[str, tuple[int, ...]] = {"2d": (1, 2), "3d": (0, 1, 2)}


def axis_pairs(head_dim: int, axes: int) -> list[int]:
    """Feature pairs of a head given to each axis: even shares, what is left over to the first.

    Raises:
        ValueError: head_dim is odd or too small to give each axis a pair.
    """
    if head_dim % 2 or head_dim < 2 * axes:
        raise ValueError(f"head_dim {head_dim} cannot be rotated: even and >= {2 * axes} is valid")
    share, left_over = divmod(head_dim // 2, axes)
    return [share + left_over] + [share] * (axes - 1)


def rotary_angles(
    positions: Tensor, head_dim: int, axes: tuple[int, ...], theta: float = 10_000.0
) -> Tensor:
    """Angles in radians, float32 ``[length, head_dim / 2]``, for integer positions ``[length, 3]``.

    Each axis has its own run of frequencies ``theta^(-i / pairs)`` (RoFormer, arXiv 2104.09864,
    section 3.2.2, once for every axis).
    """
    angles = []
    for axis, pairs in zip(axes, axis_pairs(head_dim, len(axes)), strict=True):
        steps = torch.arange(pairs, dtype=torch.float32, device=positions.device)
        angles.append(positions[:, axis, None].float() * theta ** (-steps / pairs))
    return torch.cat(angles, dim=-1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn feature i of [..., length, head_dim] against feature i + head_dim / 2, in float32."""
    cos, sin = angles.cos(), angles.sin()
    first, second = x.float().chunk(2, dim=-1)
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return turned.to(x.dtype)
