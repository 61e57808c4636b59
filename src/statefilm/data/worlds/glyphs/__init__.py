"""The world of digits that fly straight, cross each other and bounce off the borders."""

from __future__ import annotations

from random import Random
from typing import ClassVar

import torch

from statefilm.data.worlds.captions import NUMBERS
from statefilm.data.worlds.glyphs import scene
from statefilm.data.worlds.glyphs.reader import GlyphsReading, judge_glyphs, read_glyphs
from statefilm.data.worlds.glyphs.scene import LIGHTS, GlyphsSaid, GlyphsTruth
from statefilm.data.worlds.world import World

__all__ = ["Glyphs", "GlyphsReading", "GlyphsSaid", "GlyphsTruth", "read_glyphs"]


class Glyphs(World[GlyphsTruth, GlyphsReading]):
    """One to three digits of red, green and blue light; classes are their numbers."""

    name: ClassVar[str] = "glyphs"
    describe: ClassVar[str] = "one to three digits of light fly through each other and bounce"
    class_names: ClassVar[tuple[str, ...]] = ("one digit", "two digits", "three digits")
    words: ClassVar[tuple[str, ...]] = tuple(
        sorted({"a", "and", ",", "digit", "digits", "bounce", "bounces", *LIGHTS, *NUMBERS})
    )

    def compose(self, random: Random, num_frames: int) -> GlyphsTruth:
        return scene.compose(random, num_frames)

    def render(self, truth: GlyphsTruth, size: int) -> torch.Tensor:
        return scene.render(truth, size)

    def caption(self, truth: GlyphsTruth, random: Random) -> str:
        return scene.write_caption(truth, random)

    def parse(self, caption: str) -> GlyphsSaid:
        return scene.read_caption(caption)

    def label(self, truth: GlyphsTruth) -> int:
        return len(truth.digits) - 1

    def label_of(self, reading: GlyphsReading) -> int | None:
        return len(reading.cast) - 1 if reading.cast else None

    def read(self, frames: torch.Tensor) -> list[GlyphsReading]:
        return read_glyphs(frames)

    def verdict(self, reading: GlyphsReading) -> dict[str, float]:
        return judge_glyphs(reading)
