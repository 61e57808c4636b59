"""What training never sees: colours of shapes, relations of shapes, and a band of speeds."""

from __future__ import annotations

import math

from statefilm.data.world.scene import INVERSE, RELATIONS, Description, Scene, Thing

SPLITS = ("train", "heldout", "all")
# (color, shape): 3 of 32.
HELDOUT_PAIRS = frozenset({("blue", "triangle"), ("yellow", "cross"), ("purple", "square")})
_TRIPLES = {
    ("circle", "left of", "square"),
    ("triangle", "left of", "cross"),
    ("cross", "above", "circle"),
}
# (shape, relation, shape): 6 of 64, closed under saying the same the other way round.
HELDOUT_TRIPLES = frozenset(_TRIPLES | {(b, INVERSE[r], a) for a, r, b in _TRIPLES})
# Extents of motion, canvas sides per clip.
SPEEDS = (0.25, 0.55)
HELDOUT_SPEEDS = (0.40, 0.44)


def speed_is_heldout(speed: float) -> bool:
    """Whether a motion's speed lies in the held-out band."""
    return HELDOUT_SPEEDS[0] <= speed < HELDOUT_SPEEDS[1]


def scene_is_heldout(scene: Scene) -> bool:
    """Whether any thing of the scene has a held-out colour for its shape or a held-out speed."""
    return any(
        (thing.color, thing.shape) in HELDOUT_PAIRS
        or (thing.motion.becomes, thing.shape) in HELDOUT_PAIRS
        or any(speed_is_heldout(phase.speed) for phase in thing.motion.phases)
        for thing in scene.things
    )


def pair_is_heldout(first: Thing, second: Thing) -> bool:
    """Whether two things begin in a relation that is held out for their shapes, as loosely as
    GenEval sees one: by half the way between them."""
    dx, dy = second.x - first.x, second.y - first.y
    along = dict(zip(RELATIONS, (dx, -dx, dy, -dy), strict=True))
    return any(
        (first.shape, relation, second.shape) in HELDOUT_TRIPLES and way > 0.5 * math.hypot(dx, dy)
        for relation, way in along.items()
    )


def is_heldout(description: Description) -> bool:
    """Whether a caption names a held-out colour of a shape or a held-out relation of shapes."""
    groups = description.groups
    if any(
        (color, group.shape) in HELDOUT_PAIRS
        for group in groups
        for color in (group.color, group.becomes)
    ):
        return True
    triple = (groups[0].shape, description.relation, groups[-1].shape)
    return triple in HELDOUT_TRIPLES
