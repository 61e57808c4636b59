"""From frames back to balls: number, centres, radii and colours, and whether physics holds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import torch

from statefilm.data.worlds.balls.physics import Billiard
from statefilm.data.worlds.balls.scene import BACKGROUND, MAX_BALLS, RADII
from statefilm.data.worlds.flight import flight_verdicts, share
from statefilm.data.worlds.palette import COLOR_NAMES, COLORS, levels, nearest_color
from statefilm.data.worlds.regions import connected_regions
from statefilm.data.worlds.world import unit_rgb

MIN_COVERAGE = 0.25  # of a pixel by a ball, to belong to it
MIN_COSINE = 0.95  # between a pixel's colour and the palette's
MIN_AREA = 0.5 * math.pi * RADII[0] ** 2  # part of the canvas; less is a speck
MAX_AREA = 2.0 * math.pi * RADII[1] ** 2
MIN_ROUNDNESS = 0.85  # a disc has 1, an ellipse of axes 2 to 1 has 0.8
# Canvas sides: how far from contact a ball may be in a frame and touch within the next one.
WALL_MARGIN = 0.05
PAIR_MARGIN = 0.08

NAMES = ("count", "colors", "moving", "straight", "collisions")


@dataclass(frozen=True, slots=True)
class Ball:
    """A ball as read; lengths in canvas sides, y downwards."""

    color: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True, slots=True)
class BallsReading:
    """The balls in each frame of a clip."""

    frames: tuple[tuple[Ball, ...], ...]

    @property
    def count(self) -> int:
        """The number of balls in most frames."""
        return Counter(map(len, self.frames)).most_common(1)[0][0]


def read_balls(frames: torch.Tensor) -> list[BallsReading]:
    """Reads clips of balls.

    A pixel belongs to the palette's colour in whose direction from the background it lies; a ball
    is a connected region of one colour with the area and the roundness of a disc. Its centre is
    the centroid of coverage, good to a tenth of a pixel.

    Args:
        frames: floating point [B, 3, T, H, W] in [-1, 1].

    Raises:
        UsageError: for another shape or type, or for values that are not finite.
    """
    return [BallsReading(tuple(map(tuple, _read(clip)))) for clip in unit_rgb(frames)]


def judge_balls(reading: BallsReading) -> dict[str, float]:
    """The verdicts on a clip, shares from 0 to 1; all are 0 where most frames show 0 or 5 balls.

    Returns:
        "count": part of the frames that show as many balls as most do.
        "colors": part of the balls in those frames that have the colour which the ball followed
        by its places has in most.
        "moving", "straight", "collisions": see `flight_verdicts`; walls, and balls with masses as
        their squared radii, are what a ball may touch.
    """
    count = reading.count
    if not 1 <= count <= MAX_BALLS:
        return dict.fromkeys(NAMES, 0.0)
    seen = torch.tensor([len(balls) == count for balls in reading.frames])
    tracks = _follow(reading.frames, count)
    places = [[(ball.x, ball.y) for ball in balls] for balls in tracks]
    centres = torch.tensor(places, dtype=torch.float64)
    sizes = torch.tensor([[b.radius for b in balls] for balls in tracks], dtype=torch.float64)
    radii = sizes[seen].median(0).values
    colors = [[ball.color for ball in balls] for balls, s in zip(tracks, seen, strict=True) if s]
    kept = sum(Counter(track).most_common(1)[0][1] for track in zip(*colors, strict=True))

    def predict(before: torch.Tensor, now: torch.Tensor) -> torch.Tensor:
        return _predict(before, now, radii)

    return {
        "count": share(int(seen.sum()), len(seen)),
        "colors": share(kept, len(colors) * count),
        **flight_verdicts(centres, seen, _near(centres, radii), predict),
    }


def _read(rgb: torch.Tensor) -> list[list[Ball]]:
    """The balls of each picture of [T, H, W, 3] in [0, 1]."""
    size = rgb.shape[1]
    dark = levels([BACKGROUND])[0]
    color, cosine = nearest_color(rgb, BACKGROUND)
    inks = levels(list(COLORS.values())) - dark
    coverage = (rgb - dark).norm(dim=-1) / inks.norm(dim=-1)[color]
    belongs = (coverage >= MIN_COVERAGE) & (cosine >= MIN_COSINE)
    regions = connected_regions(torch.where(belongs, color, -1))

    frame, row, column = belongs.nonzero(as_tuple=True)
    region, weight = regions[belongs], coverage[belongs].clamp(max=1).double()
    x, y = (column + 0.5) / size, (row + 0.5) / size
    total = int(region.max()) + 1 if region.numel() else 0

    def summed(values: torch.Tensor) -> torch.Tensor:
        return torch.zeros(total, dtype=torch.float64).index_add_(0, region, weight * values)

    mass = summed(torch.ones_like(weight))
    centre_x, centre_y = summed(x) / mass, summed(y) / mass
    spread = summed((x - centre_x[region]).square() + (y - centre_y[region]).square())
    area = mass / size**2
    roundness = mass * area / (2 * math.pi) / spread.clamp(min=1e-9)
    is_ball = (area >= MIN_AREA) & (area <= MAX_AREA) & (roundness >= MIN_ROUNDNESS)

    where = torch.zeros(total, dtype=torch.long).scatter_(0, region, frame)
    what = torch.zeros(total, dtype=torch.long).scatter_(0, region, color[belongs])
    found: list[list[Ball]] = [[] for _ in rgb]
    for i in is_ball.nonzero().flatten().tolist():
        radius = math.sqrt(float(area[i]) / math.pi)
        ball = Ball(COLOR_NAMES[int(what[i])], float(centre_x[i]), float(centre_y[i]), radius)
        found[int(where[i])].append(ball)
    return found


def _follow(frames: Sequence[Sequence[Ball]], count: int) -> list[tuple[Ball, ...]]:
    """The balls of each frame in one order, by the shortest ways; other frames repeat the last."""
    last = next(tuple(balls) for balls in frames if len(balls) == count)
    tracks = []
    for balls in frames:
        if len(balls) == count:
            last = min(permutations(balls), key=lambda order: _way(last, order))
        tracks.append(last)
    return tracks


def _way(old: Sequence[Ball], new: Sequence[Ball]) -> float:
    return sum((a.x - b.x) ** 2 + (a.y - b.y) ** 2 for a, b in zip(old, new, strict=True))


def _near(centres: torch.Tensor, radii: torch.Tensor) -> torch.Tensor:
    """Whether each ball is about to touch a wall or another ball, [T, n]."""
    edge = torch.minimum(centres, 1 - centres).amin(-1) - radii
    apart = (centres[:, :, None] - centres[:, None]).norm(dim=-1)
    gap = apart - radii - radii[:, None] + torch.eye(len(radii))
    return (edge < WALL_MARGIN) | (gap < PAIR_MARGIN).any(-1)


def _predict(before: torch.Tensor, now: torch.Tensor, radii: torch.Tensor) -> torch.Tensor:
    """The centres [2, n, 2] in the two next frames."""
    places = [(x, y) for x, y in now.tolist()]
    velocities = [(x, y) for x, y in (now - before).tolist()]
    billiard = Billiard(places, velocities, radii.tolist())
    ahead = []
    for _ in range(2):
        billiard.advance(1.0)
        ahead.append(list(billiard.places))
    return torch.tensor(ahead, dtype=torch.float64)
