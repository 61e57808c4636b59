"""Mazes of coloured blocks, and random walks along their corridors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random

from statefilm.data.worlds.palette import COLOR_NAMES

Pose = tuple[float, float, float]
Cell = tuple[int, int]

NODES = 4  # places along each side, every second cell of the grid
SIDE = 2 * NODES + 1  # cells along each side, the outer wall included
FREE = -1
LOOPS = 3  # openings beyond those that join all places
MAIN_SHARE = 0.5  # of blocks that have the maze's main colour
TURN_BACK = 0.1  # chance, at a place, to go back the way one came
FRAMES_PER_CELL = 4
FRAMES_PER_QUARTER = 6
_AHEAD: tuple[Cell, ...] = ((1, 0), (0, 1), (-1, 0), (0, -1))  # (x, y) by quarter turns


@dataclass(frozen=True, slots=True)
class Plan:
    """A maze.

    Attributes:
        main: the colour of about half of its blocks.
        blocks: `SIDE` rows of `SIDE` cells: an index into `COLOR_NAMES`, or `FREE`.
    """

    main: str
    blocks: tuple[tuple[int, ...], ...]


def carve(random: Random) -> Plan:
    """A random maze: a spanning tree of all places with a few more openings."""
    main = random.randrange(len(COLOR_NAMES))
    others = [color for color in range(len(COLOR_NAMES)) if color != main]
    blocks = [
        [main if random.random() < MAIN_SHARE else random.choice(others) for _ in range(SIDE)]
        for _ in range(SIDE)
    ]
    first = (random.randrange(NODES), random.randrange(NODES))
    reached, trail = {first}, [first]
    while trail:
        x, y = trail[-1]
        blocks[2 * y + 1][2 * x + 1] = FREE
        ways = [(dx, dy) for dx, dy in _AHEAD if _inside(x + dx, y + dy)]
        fresh = [(dx, dy) for dx, dy in ways if (x + dx, y + dy) not in reached]
        if not fresh:
            trail.pop()
            continue
        dx, dy = random.choice(fresh)
        blocks[2 * y + 1 + dy][2 * x + 1 + dx] = FREE
        reached.add((x + dx, y + dy))
        trail.append((x + dx, y + dy))
    inner = range(1, SIDE - 1)
    doors = [(x, y) for y in inner for x in inner if (x + y) % 2 and blocks[y][x] != FREE]
    for x, y in random.sample(doors, LOOPS):
        blocks[y][x] = FREE
    return Plan(COLOR_NAMES[main], tuple(map(tuple, blocks)))


def walk(plan: Plan, random: Random, num_frames: int) -> list[Pose]:
    """A walk from a random place: (x, y, heading) in each frame.

    x and y are in cells, y downwards; the heading is in radians, 0 along x, growing clockwise.
    The walker goes from place to place and turns where it stands, both at a steady rate.
    """
    return list(islice(_poses(plan, random), num_frames))


def _poses(plan: Plan, random: Random) -> Iterator[Pose]:
    x, y = (2 * random.randrange(NODES) + 1 for _ in range(2))
    heading = random.randrange(4)
    while True:
        turn = _turn(plan, random, (x, y), heading)
        for frame in range(abs(turn) * FRAMES_PER_QUARTER):
            angle = heading + math.copysign(frame / FRAMES_PER_QUARTER, turn)
            yield x + 0.5, y + 0.5, angle * math.pi / 2
        heading += turn
        dx, dy = _AHEAD[heading % 4]
        for frame in range(2 * FRAMES_PER_CELL):
            way = frame / FRAMES_PER_CELL
            yield x + 0.5 + dx * way, y + 0.5 + dy * way, heading * math.pi / 2
        x, y = x + 2 * dx, y + 2 * dy


def _turn(plan: Plan, random: Random, place: Cell, heading: int) -> int:
    """Quarter turns, clockwise, to an open corridor: back only at dead ends or now and then."""
    x, y = place
    turns = [0, 1, -1, random.choice((2, -2))]
    ways = [_AHEAD[(heading + turn) % 4] for turn in turns]
    open_turns = [
        turn for turn, (dx, dy) in zip(turns, ways, strict=True) if plan.blocks[y + dy][x + dx] < 0
    ]
    onward = [turn for turn in open_turns if abs(turn) < 2]
    if not onward or (len(onward) < len(open_turns) and random.random() < TURN_BACK):
        return turns[-1]
    return random.choice(onward)


def _inside(x: int, y: int) -> bool:
    return 0 <= x < NODES and 0 <= y < NODES
