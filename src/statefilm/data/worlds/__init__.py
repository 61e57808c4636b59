"""Three worlds of long captioned clips whose laws can be read back from the frames alone.

`WORLDS` maps "balls", "maze" and "glyphs" to objects with `sample_batch`, `read` and `verdicts`.
"""

from __future__ import annotations

from typing import Any

from statefilm.data.worlds.balls import Balls
from statefilm.data.worlds.glyphs import Glyphs
from statefilm.data.worlds.maze import Maze
from statefilm.data.worlds.world import SPLITS, VideoBatch, World
from statefilm.errors import suggest

__all__ = ["SPLITS", "WORLDS", "VideoBatch", "World", "find_world", "vocabulary"]

WORLDS: dict[str, World[Any, Any]] = {world.name: world for world in (Balls(), Maze(), Glyphs())}


def find_world(name: str) -> World[Any, Any]:
    """The world of a name; raises UsageError for another."""
    if name not in WORLDS:
        raise suggest(name, WORLDS, "world")
    return WORLDS[name]


def vocabulary() -> list[str]:
    """Every word and punctuation mark of all worlds' captions, sorted."""
    return sorted({word for world in WORLDS.values() for word in world.words})
