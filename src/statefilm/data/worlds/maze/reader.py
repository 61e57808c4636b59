"""From frames of a walk to its way and to the map of what it saw.

A grid shows its walker where he stands. All walls face along two axes, so that one picture tells
the heading up to quarter turns; all walls stand on lines one cell apart, so that it then tells the
place up to whole cells. From frame to frame both change by less than half of that: the way follows
from the first frame on, without drift, and every block seen has its place on one map.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from statefilm.data.worlds.maze.columns import Columns, read_columns
from statefilm.data.worlds.maze.plan import FREE, Cell
from statefilm.data.worlds.maze.raycast import DIMMING, SIDE_LIGHT
from statefilm.data.worlds.maze.tracks import agreed, nearest_path, steady_path
from statefilm.data.worlds.palette import COLOR_NAMES, COLORS, levels
from statefilm.data.worlds.world import unit_rgb

MIN_HEIGHT = 4.0  # pixels of a wall that is entered in the map; lower ones are too far
MAX_SLANT = 0.25  # quarter turns, of a wall from the grid's axes
MIN_JOINT = 0.12  # by which an edge of a block is darker than the wall around it
EDGE = 0.1  # cells: nearer to a block's edge, a column may show either of two blocks
MIN_COLUMNS = 2  # that show a cell, to enter it

QUARTER = math.pi / 2

Sight = dict[Cell, int]


@dataclass(frozen=True, slots=True)
class MazeReading:
    """A walk as read, on a map of its own: the first frame is in cell (0, 0).

    Attributes:
        views: float32 [T], the part of each frame's columns that show a wall in a band around the
            horizon with ceiling above and floor below.
        poses: float64 [T, 3]: x and y in cells, y to the right of x, and the heading in radians
            from x to y. Where a frame does not tell a value it is that of the frame before.
        sights: what each frame shows of the map: the cells of blocks with an index into
            `COLOR_NAMES`, and of those before them with `FREE`.
    """

    views: torch.Tensor
    poses: torch.Tensor
    sights: tuple[Sight, ...]

    @property
    def walls(self) -> str | None:
        """The colour of most blocks; None without any."""
        seen: dict[Cell, Counter[int]] = {}
        for sight in self.sights:
            for cell, state in sight.items():
                if state != FREE:
                    seen.setdefault(cell, Counter())[state] += 1
        blocks = Counter(states.most_common(1)[0][0] for states in seen.values())
        return COLOR_NAMES[blocks.most_common(1)[0][0]] if blocks else None


def read_maze(frames: torch.Tensor) -> list[MazeReading]:
    """Reads clips of walks.

    Args:
        frames: floating point [B, 3, T, H, W] in [-1, 1].

    Raises:
        UsageError: for another shape or type, or for values that are not finite.
    """
    return [_read(clip) for clip in unit_rgb(frames)]


def _read(rgb: torch.Tensor) -> MazeReading:
    columns = read_columns(rgb)
    weight = columns.flat / columns.depth.square()
    quarters = agreed(-columns.normal.double() / QUARTER, weight)
    heading = nearest_path(quarters) * QUARTER

    facing = (heading[:, None] + columns.normal) / QUARTER
    direction = facing.round().long() % 4
    usable = columns.flat & ((facing - facing.round()).abs() <= MAX_SLANT)
    offsets = _offsets(columns, heading)
    weight = usable / columns.depth.square()
    # Walls across an axis stand on its lines, and so do the edges of blocks along it.
    joints = weight * _joints(columns, direction, usable)
    means = [
        agreed(-offsets[..., axis], torch.where(direction % 2 == axis, weight, joints))
        for axis in (0, 1)
    ]
    places = steady_path(torch.stack(means)).T  # [T, 2]

    usable = usable & columns.valid & (columns.height >= MIN_HEIGHT)
    sights = tuple(map(_sight, places[:, None] + offsets, direction, columns.color, usable))
    poses = torch.cat([places, heading[:, None]], dim=1)
    return MazeReading(columns.valid.float().mean(1), poses, sights)


def _joints(columns: Columns, direction: torch.Tensor, usable: torch.Tensor) -> torch.Tensor:
    """How much darker each column is than its wall around it, 0 to 1, as the edges of blocks are.

    Colour, distance and side are taken out of the light before.
    """
    full = levels(list(COLORS.values())).norm(dim=-1)[columns.color]
    side = torch.where(direction % 2 == 0, 1.0, SIDE_LIGHT)
    light = usable * columns.light / full / side * (1 + DIMMING * columns.depth)
    around = F.max_pool1d(light[:, None], 7, stride=1, padding=3)[:, 0]
    darker = 1 - light / around.clamp(min=1e-3)
    return torch.where(darker >= MIN_JOINT, darker, 0.0)


def _offsets(columns: Columns, heading: torch.Tensor) -> torch.Tensor:
    """Where each column's wall is as seen from the walker, along the map's axes: [T, W, 2]."""
    cos, sin = heading.cos()[:, None], heading.sin()[:, None]
    ray = torch.stack([cos - sin * columns.across, sin + cos * columns.across], dim=-1)
    return ray * columns.depth[..., None]


def _sight(
    hits: torch.Tensor, direction: torch.Tensor, color: torch.Tensor, usable: torch.Tensor
) -> Sight:
    """What most columns of one frame show of each cell."""
    ahead = torch.tensor([(1, 0), (0, 1), (-1, 0), (0, -1)])[direction] / 2
    along = torch.where(direction % 2 == 0, hits[:, 1], hits[:, 0])
    usable = usable & ((along - along.round()).abs() >= EDGE)
    blocks, fronts = ((hits + side).floor().long()[usable] for side in (ahead, -ahead))
    votes: dict[Cell, Counter[int]] = {}
    for cells, states in ((blocks, color[usable].tolist()), (fronts, [FREE] * len(fronts))):
        for (x, y), state in zip(cells.tolist(), states, strict=True):
            votes.setdefault((x, y), Counter())[state] += 1
    best = {cell: counts.most_common(1)[0] for cell, counts in votes.items()}
    return {cell: state for cell, (state, count) in best.items() if count >= MIN_COLUMNS}
