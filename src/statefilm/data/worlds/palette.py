"""The colours of balls and of walls, and how to tell them whatever the light."""

from __future__ import annotations

from collections.abc import Sequence

import torch

RGB = tuple[int, int, int]

# sRGB; their directions from black are at least 20 degrees apart.
COLORS: dict[str, RGB] = {
    "red": (235, 50, 45),
    "green": (50, 200, 75),
    "blue": (55, 90, 250),
    "yellow": (245, 220, 50),
    "purple": (200, 70, 225),
    "cyan": (70, 225, 235),
}
COLOR_NAMES = tuple(COLORS)


def levels(colors: Sequence[RGB]) -> torch.Tensor:
    """sRGB triples as float32 [N, 3] in [0, 1]."""
    return torch.tensor(colors, dtype=torch.float32) / 255


def nearest_color(rgb: torch.Tensor, black: RGB = (0, 0, 0)) -> tuple[torch.Tensor, torch.Tensor]:
    """The palette's colour nearest in direction from `black`.

    Shading and a mixture with `black` change the length of a colour, not its direction.

    Args:
        rgb: [..., 3] in [0, 1].

    Returns:
        Indices into `COLOR_NAMES` and the cosines of the angles to them, both [...].
    """
    dark = levels([black])
    directions = torch.nn.functional.normalize(levels(list(COLORS.values())) - dark, dim=-1)
    cosines = torch.nn.functional.normalize(rgb - dark, dim=-1) @ directions.T
    best = cosines.max(-1)
    return best.indices, best.values
