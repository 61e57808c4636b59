"""The world of walks through mazes of coloured blocks, seen by the walker."""

from __future__ import annotations

from random import Random
from typing import ClassVar

import torch

from statefilm.data.worlds.maze import scene
from statefilm.data.worlds.maze.plan import Plan
from statefilm.data.worlds.maze.raycast import view
from statefilm.data.worlds.maze.reader import MazeReading, read_maze
from statefilm.data.worlds.maze.scene import FORMS, MazeSaid, MazeTruth
from statefilm.data.worlds.maze.verdicts import judge_maze
from statefilm.data.worlds.palette import COLOR_NAMES
from statefilm.data.worlds.world import World

__all__ = ["Maze", "MazeReading", "MazeSaid", "MazeTruth", "Plan", "read_maze"]


class Maze(World[MazeTruth, MazeReading]):
    """Walks that turn, go on and come back; classes are the main colours of the walls.

    The main colour is that of about half of the maze's blocks. `label_of` counts the blocks that a
    clip shows, so that few frames may name another.
    """

    name: ClassVar[str] = "maze"
    describe: ClassVar[str] = "a first-person walk through a maze of coloured blocks"
    class_names: ClassVar[tuple[str, ...]] = tuple(f"{color} walls" for color in COLOR_NAMES)
    words: ClassVar[tuple[str, ...]] = tuple(
        sorted({word for form in FORMS for word in form.format("").split()} | set(COLOR_NAMES))
    )

    def compose(self, random: Random, num_frames: int) -> MazeTruth:
        return scene.compose(random, num_frames)

    def render(self, truth: MazeTruth, size: int) -> torch.Tensor:
        return view(truth.plan, truth.poses.tolist(), size)

    def caption(self, truth: MazeTruth, random: Random) -> str:
        return scene.write_caption(truth, random)

    def parse(self, caption: str) -> MazeSaid:
        return scene.read_caption(caption)

    def label(self, truth: MazeTruth) -> int:
        return COLOR_NAMES.index(truth.plan.main)

    def label_of(self, reading: MazeReading) -> int | None:
        return None if reading.walls is None else COLOR_NAMES.index(reading.walls)

    def read(self, frames: torch.Tensor) -> list[MazeReading]:
        return read_maze(frames)

    def verdict(self, reading: MazeReading) -> dict[str, float]:
        return judge_maze(reading)
