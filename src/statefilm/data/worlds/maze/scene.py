"""Clips of walks through mazes: how they are drawn at random and put into words."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import torch

from statefilm.data.worlds.captions import unreadable
from statefilm.data.worlds.maze.plan import Plan, carve, walk
from statefilm.data.worlds.palette import COLOR_NAMES

FORMS = ("a walk through a maze with {} walls", "walking through a {} maze")


@dataclass(frozen=True, slots=True)
class MazeTruth:
    """A maze and a walk of T frames.

    Attributes:
        poses: float64 [T, 3]: x and y in cells, y downwards, and the heading in radians, 0 along
            x, growing clockwise.
    """

    plan: Plan
    poses: torch.Tensor


@dataclass(frozen=True, slots=True)
class MazeSaid:
    """What a caption says: the main colour of the walls."""

    walls: str


def compose(random: Random, num_frames: int) -> MazeTruth:
    """A random maze and a random walk in it."""
    plan = carve(random)
    return MazeTruth(plan, torch.tensor(walk(plan, random, num_frames), dtype=torch.float64))


def write_caption(truth: MazeTruth, random: Random) -> str:
    """Such as "a walk through a maze with green walls"."""
    return random.choice(FORMS).format(truth.plan.main)


def read_caption(caption: str) -> MazeSaid:
    """The inverse of `write_caption`."""
    for color in COLOR_NAMES:
        if caption in [form.format(color) for form in FORMS]:
            return MazeSaid(color)
    raise unreadable(caption, FORMS[0].format("green"))
