"""From pictures of a maze to its walls: height, colour and place of what each column shows."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from statefilm.data.worlds.maze.raycast import WALL_HEIGHT, backdrop
from statefilm.data.worlds.palette import nearest_color

MAX_ERROR = 0.05  # mean difference, of 1, of a column from a wall before ceiling and floor
MIN_COSINE = 0.95  # between a wall's colour and the palette's
# Pixels by which a wall's edge may leave a straight line; where two walls meet it is 1.3 a column.
BUMP, BUMP_PER_COLUMN = 0.4, 0.15
LAGS = (16, 32, 64)  # parts of a picture's width over which walls are looked at, wide ones first


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of T pictures of W columns each, all [T, W].

    Attributes:
        valid: whether a column is a wall of one colour in a band around the horizon, with the
            known ceiling above and the known floor below.
        height: of the wall in pixels.
        color: index into `COLOR_NAMES`.
        across: tangent of the angle to the heading, growing to the right; [W].
        depth: distance of the wall along the heading, in cells.
        light: length of the wall's colour in RGB of [0, 1].
        flat: whether the columns on both sides lie on one flat wall with this one.
        normal: angle from the heading to the wall's normal in radians, growing clockwise; of no
            meaning where the wall is not flat.
    """

    valid: torch.Tensor
    height: torch.Tensor
    color: torch.Tensor
    across: torch.Tensor
    depth: torch.Tensor
    light: torch.Tensor
    flat: torch.Tensor
    normal: torch.Tensor


def read_columns(rgb: torch.Tensor) -> Columns:
    """Reads pictures [T, H, H, 3] in [0, 1].

    The height of a wall tells its distance. Along a flat wall the height is linear in the column,
    and the line tells the direction that the wall faces.
    """
    size = rgb.shape[1]
    height, ink, error = _bands(rgb)
    color, cosine = nearest_color(ink)
    band = (error <= MAX_ERROR) & (height >= 1)
    across = (torch.arange(size) + 0.5) / (size / 2) - 1
    nearness = height / (size / 2 * WALL_HEIGHT)

    flat = torch.zeros_like(band)
    normal = torch.zeros_like(height)
    for lag in (max(1, size // part) for part in LAGS):
        fits, angle = _fit(height, band, across, lag)
        normal = torch.where(fits & ~flat, angle, normal)
        flat = flat | fits
    return Columns(
        valid=band & (cosine >= MIN_COSINE),
        height=height,
        color=color,
        across=across,
        depth=1 / nearness.clamp(min=1e-3),
        light=ink.norm(dim=-1),
        flat=flat,
        normal=normal,
    )


def _fit(
    height: torch.Tensor, band: torch.Tensor, across: torch.Tensor, lag: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where heights are straight over columns `lag` to each side, and the normal's angle there."""
    left, right = height.roll(lag, 1), height.roll(-lag, 1)
    straight = (left + right - 2 * height).abs() <= BUMP + BUMP_PER_COLUMN * lag
    fits = straight & band & band.roll(lag, 1) & band.roll(-lag, 1)
    fits[:, :lag] = fits[:, -lag:] = False
    slope = (right - left) / (across[lag] - across[0]) / 2
    ahead = (left + height + right) / 3 - slope * across
    return fits, torch.atan2(slope, ahead)


def _bands(rgb: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Height [T, W] and colour [T, W, 3] of each column's wall, and what they leave unexplained."""
    size = rgb.shape[1]
    behind = backdrop(size)[:, None]
    rows = (torch.arange(size) + 0.5 - size / 2).abs()[:, None]
    ink = rgb[:, size // 2 - 1 : size // 2 + 1].mean(1)
    rough = (_coverage(rgb, ink, behind) > 0.5).sum(1) / 2  # half the height

    inside = (rows < (rough[:, None] - 1).clamp(min=1)).float()
    ink = (rgb * inside[..., None]).sum(1) / inside.sum(1)[..., None]
    # Only the rows around the edges are measured: elsewhere noise would add up.
    covered = _coverage(rgb, ink, behind).clamp(-0.5, 1.5)
    offset = rows - rough[:, None]
    height = torch.where(offset.abs() <= 1.5, covered, (offset < 0).float()).sum(1)

    painted = (height[:, None] / 2 - rows + 0.5).clamp(0, 1)[..., None]
    error = (rgb - torch.lerp(behind.expand_as(rgb), ink[:, None], painted)).abs().mean((1, 3))
    return height, ink, error


def _coverage(rgb: torch.Tensor, ink: torch.Tensor, behind: torch.Tensor) -> torch.Tensor:
    """How far each pixel is on the way from ceiling or floor to the column's wall, [T, H, W]."""
    line = ink[:, None] - behind
    return ((rgb - behind) * line).sum(-1) / line.square().sum(-1).clamp(min=1e-3)
