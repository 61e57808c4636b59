"""The world of balls that bounce off walls and off each other, exactly elastic."""

from __future__ import annotations

from random import Random
from typing import ClassVar

import torch

from statefilm.data.worlds.balls import scene
from statefilm.data.worlds.balls.physics import Billiard
from statefilm.data.worlds.balls.reader import Ball, BallsReading, judge_balls, read_balls
from statefilm.data.worlds.balls.scene import MAX_BALLS, BallsSaid, BallsTruth
from statefilm.data.worlds.captions import NUMBERS
from statefilm.data.worlds.palette import COLORS
from statefilm.data.worlds.world import World

__all__ = ["Ball", "Balls", "BallsReading", "BallsSaid", "BallsTruth", "Billiard", "read_balls"]


class Balls(World[BallsTruth, BallsReading]):
    """One to four balls of different colours; classes are their numbers."""

    name: ClassVar[str] = "balls"
    describe: ClassVar[str] = "one to four coloured balls bounce elastically in a box"
    class_names: ClassVar[tuple[str, ...]] = ("one ball", "two balls", "three balls", "four balls")
    words: ClassVar[tuple[str, ...]] = tuple(
        sorted(
            {"a", "and", ",", "ball", "balls", "bounce", "bounces"}
            | set(COLORS)
            | set(NUMBERS[1 : MAX_BALLS + 1])
        )
    )

    def compose(self, random: Random, num_frames: int) -> BallsTruth:
        return scene.compose(random, num_frames)

    def render(self, truth: BallsTruth, size: int) -> torch.Tensor:
        return scene.render(truth, size)

    def caption(self, truth: BallsTruth, random: Random) -> str:
        return scene.write_caption(truth, random)

    def parse(self, caption: str) -> BallsSaid:
        return scene.read_caption(caption)

    def label(self, truth: BallsTruth) -> int:
        return len(truth.colors) - 1

    def label_of(self, reading: BallsReading) -> int | None:
        return reading.count - 1 if 1 <= reading.count <= MAX_BALLS else None

    def read(self, frames: torch.Tensor) -> list[BallsReading]:
        return read_balls(frames)

    def verdict(self, reading: BallsReading) -> dict[str, float]:
        return judge_balls(reading)
