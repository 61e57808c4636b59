"""Ten digits as strokes: their outlines, and pictures of them at any place of the canvas."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F

Point = tuple[float, float]

HEIGHT = 0.32  # of the middle of the strokes, canvas sides
STROKE = 0.045  # width of the strokes, canvas sides
# Half sides of the box that holds every digit around its own centre, strokes included.
HALF_BOX = (0.32 * HEIGHT + STROKE / 2, 0.5 * HEIGHT + STROKE / 2)
_TABLE = 129  # samples of a side of the distance table
_REACH = 0.32  # half side of the square that the table covers, canvas sides


def _arc(x: float, y: float, rx: float, ry: float, start: float, end: float) -> list[Point]:
    """An elliptic arc as points; angles in degrees, 0 rightwards and growing clockwise."""
    parts = max(2, round(abs(end - start) / 20))
    angles = (math.radians(start + (end - start) * i / parts) for i in range(parts + 1))
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


# Lines through points in units of HEIGHT, x from -0.32 to 0.32, y downwards from -0.5 to 0.5.
_STROKES: tuple[tuple[list[Point], ...], ...] = (
    (_arc(0, 0, 0.3, 0.5, 0, 360),),
    ([(-0.2, -0.26), (0.05, -0.5), (0.05, 0.5)],),
    ([*_arc(0, -0.22, 0.29, 0.28, -190, 35), (-0.3, 0.5), (0.31, 0.5)],),
    (
        _arc(-0.02, -0.25, 0.26, 0.25, -150, 90),
        _arc(-0.02, 0.23, 0.31, 0.27, -90, 145),
    ),
    ([(0.14, 0.5), (0.14, -0.5), (-0.32, 0.2), (0.32, 0.2)],),
    ([(0.26, -0.5), (-0.22, -0.5), (-0.26, -0.06), *_arc(-0.01, 0.17, 0.31, 0.33, -130, 140)],),
    ([(0.16, -0.5), *_arc(0, 0.19, 0.3, 0.31, -160, 200)],),
    ([(-0.3, -0.5), (0.3, -0.5), (-0.08, 0.5)],),
    (_arc(0, -0.26, 0.24, 0.24, 90, 450), _arc(0, 0.24, 0.3, 0.26, -90, 270)),
    ([*_arc(0, -0.19, 0.3, 0.31, 20, 380), (-0.16, 0.5)],),
)
DIGITS = len(_STROKES)


def draw_digit(
    digit: int, x: torch.Tensor, y: torch.Tensor, columns: torch.Tensor, rows: torch.Tensor
) -> torch.Tensor:
    """How much of each pixel a digit covers.

    Args:
        digit: 0 to 9.
        x, y: float32 [N], its centres in canvas sides.
        columns: float32 [W], middles of the pixels, evenly spaced, in canvas sides.
        rows: float32 [H].

    Returns:
        float32 [N, H, W] in [0, 1].
    """
    pixel = float(columns[1] - columns[0])
    across = (columns - x[:, None])[:, None, :].expand(-1, len(rows), -1)
    along = (rows - y[:, None])[:, :, None].expand(-1, -1, len(columns))
    grid = torch.stack([across, along], dim=-1) / _REACH
    table = _distances()[digit].expand(len(x), 1, -1, -1)
    distance = F.grid_sample(table, grid, padding_mode="border", align_corners=True)[:, 0]
    return ((STROKE / 2 - distance) / pixel + 0.5).clamp(0, 1)


@lru_cache(maxsize=1)
def _distances() -> torch.Tensor:
    """Distance from the nearest stroke in canvas sides, [10, 1, N, N], around each centre."""
    side = torch.linspace(-_REACH, _REACH, _TABLE)
    points = torch.stack(torch.meshgrid(side, side, indexing="xy"), dim=-1)
    return torch.stack([_distance(points, strokes) for strokes in _STROKES])[:, None]


def _distance(points: torch.Tensor, strokes: tuple[list[Point], ...]) -> torch.Tensor:
    nearest = torch.full(points.shape[:-1], math.inf)
    for stroke in strokes:
        corners = torch.tensor(stroke) * HEIGHT
        for start, end in pairwise(corners):
            line = end - start
            part = ((points - start) @ line / line.square().sum()).clamp(0, 1)
            nearest = torch.minimum(nearest, (points - start - part[..., None] * line).norm(dim=-1))
    return nearest
