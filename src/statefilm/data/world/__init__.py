"""The checkable world: captioned scenes of moving shapes whose every property is known."""

from statefilm.data.world.captions import (
    CaptionError,
    canonical,
    paraphrase,
    parse,
    tokenize,
    vocabulary,
)
from statefilm.data.world.motion import Tracks, tracks
from statefilm.data.world.render import render
from statefilm.data.world.sample import (
    CLIP_MIX,
    FAMILIES,
    IMAGE_MIX,
    WorldBatch,
    compose,
    sample_batch,
)
from statefilm.data.world.scene import Description, Group, Motion, Scene, Thing
from statefilm.data.world.splits import is_heldout

__all__ = [
    "CLIP_MIX",
    "FAMILIES",
    "IMAGE_MIX",
    "CaptionError",
    "Description",
    "Group",
    "Motion",
    "Scene",
    "Thing",
    "Tracks",
    "WorldBatch",
    "canonical",
    "compose",
    "is_heldout",
    "paraphrase",
    "parse",
    "render",
    "sample_batch",
    "tokenize",
    "tracks",
    "vocabulary",
]
