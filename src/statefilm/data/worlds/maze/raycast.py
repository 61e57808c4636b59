"""The view of a walker in a maze: one ray for each part of a column of pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from statefilm.data.worlds.maze.plan import Plan, Pose
from statefilm.data.worlds.palette import COLORS, RGB, levels

# The view is 90 degrees wide. Eyes are halfway up the walls, so that all is symmetrical about the
# horizon; walls are so low that floor and ceiling show from everywhere on the middle of corridors.
WALL_HEIGHT = 0.65  # cells
FLOOR: RGB = (112, 104, 92)
CEILING: RGB = (58, 62, 78)
DIMMING = 0.12  # light falls as 1 / (1 + DIMMING * distance)
SIDE_LIGHT = 0.8  # of walls along x, against those along y
JOINT_LIGHT = 0.55  # of the edges of blocks
JOINT_WIDTH = 0.04  # cells, on either side of an edge
RAYS = 4  # for each column of pixels


def view(plan: Plan, poses: Sequence[Pose], size: int) -> torch.Tensor:
    """Paints what a walker sees: float32 [3, T, size, size] in [-1, 1]."""
    across = (torch.arange(size * RAYS) + 0.5) / (size * RAYS / 2) - 1
    depth, color, light = _cast(plan, poses, across)
    ink = levels(list(COLORS.values()))[color] * light[..., None]  # [T, W * RAYS, 3]

    rows = torch.arange(size // 2) + 0.5  # from the horizon
    half_height = size / 2 * WALL_HEIGHT / 2 / depth
    covered = (half_height[:, None, :] - rows[:, None] + 0.5).clamp(0, 1)  # [T, H / 2, W * RAYS]
    covered = covered.view(len(poses), len(rows), size, RAYS)
    ink = ink.view(len(poses), 1, size, RAYS, 3)
    # Summed ray by ray, which is the same in clips of any length.
    wall = torch.zeros(len(poses), len(rows), size, 3)
    for ray in range(RAYS):
        wall += covered[..., ray, None] * ink[..., ray, :] / RAYS
    free = 1 - covered.mean(-1)[..., None]
    wall, free = (torch.cat([half.flip(1), half], dim=1) for half in (wall, free))
    frames = wall + free * backdrop(size)[:, None]
    return frames.permute(3, 0, 1, 2) * 2 - 1


def backdrop(size: int) -> torch.Tensor:
    """Ceiling and floor without any wall, by row: float32 [size, 3] in [0, 1]."""
    rows = torch.arange(size // 2) + 0.5
    distance = size / 2 * WALL_HEIGHT / 2 / rows
    ceiling, floor = levels([CEILING, FLOOR])[:, None] / (1 + DIMMING * distance[:, None])
    return torch.cat([ceiling.flip(0), floor])


def _cast(
    plan: Plan, poses: Sequence[Pose], across: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Follows rays from cell to cell (Amanatides and Woo 1987) up to the first block.

    Args:
        across: [R], tangents of the rays' angles to the heading, growing to the right.

    Returns:
        Distance along the heading in cells, colour index and light of what each ray hits: [T, R].
    """
    blocks = torch.tensor(plan.blocks)
    x, y = (torch.tensor([pose[axis] for pose in poses])[:, None] for axis in (0, 1))
    cos = torch.tensor([math.cos(heading) for *_, heading in poses])[:, None]
    sin = torch.tensor([math.sin(heading) for *_, heading in poses])[:, None]
    ray_x, ray_y = cos - sin * across, sin + cos * across

    cell_x, cell_y = (place.floor().long().expand_as(ray_x).clone() for place in (x, y))
    step_x, step_y = ((ray >= 0).long() * 2 - 1 for ray in (ray_x, ray_y))
    between_x, between_y = 1 / ray_x.abs(), 1 / ray_y.abs()  # infinite along an axis
    next_x = torch.where(ray_x >= 0, cell_x + 1 - x, x - cell_x) * between_x
    next_y = torch.where(ray_y >= 0, cell_y + 1 - y, y - cell_y) * between_y
    depth = torch.zeros_like(ray_x)
    through_x = torch.zeros_like(ray_x, dtype=torch.bool)
    going = torch.ones_like(through_x)
    while going.any():
        by_x = going & (next_x < next_y)
        by_y = going & ~by_x
        depth = torch.where(going, torch.minimum(next_x, next_y), depth)
        through_x = torch.where(going, by_x, through_x)
        cell_x, cell_y = cell_x + step_x * by_x, cell_y + step_y * by_y
        next_x = torch.where(by_x, next_x + between_x, next_x)
        next_y = torch.where(by_y, next_y + between_y, next_y)
        going = blocks[cell_y, cell_x] < 0
    along = torch.where(through_x, y + depth * ray_y, x + depth * ray_x)
    to_edge = 0.5 - (along - along.floor() - 0.5).abs()
    light = torch.where(through_x, 1.0, SIDE_LIGHT) / (1 + DIMMING * depth)
    light = torch.where(to_edge < JOINT_WIDTH, light * JOINT_LIGHT, light)
    return depth, blocks[cell_y, cell_x], light
