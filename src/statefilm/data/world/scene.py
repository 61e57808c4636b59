"""The vocabulary of the world and its scene graphs: things on a canvas, and what a caption says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

RGB = tuple[int, int, int]

# sRGB; every pair of colours, and every colour and background, is at least 25 apart in CIELAB.
COLORS: dict[str, RGB] = {
    "red": (225, 40, 40),
    "green": (40, 175, 70),
    "blue": (50, 90, 235),
    "yellow": (245, 225, 50),
    "purple": (160, 60, 200),
    "orange": (250, 140, 30),
    "cyan": (60, 215, 230),
    "white": (245, 245, 245),
}
BACKGROUNDS: dict[str, RGB] = {
    "black": (20, 20, 24),
    "gray": (96, 96, 100),
    "navy": (20, 30, 84),
    "maroon": (80, 18, 32),
    "olive": (70, 66, 24),
}
DEFAULT_BACKGROUND = "black"
SHAPES = ("circle", "square", "triangle", "cross")
# Radius of the circle with the thing's area, in canvas sides: shapes of one size have one area.
RADIUS = {"small": 0.085, "large": 0.13}
SIZES = tuple(RADIUS)
RELATIONS = ("left of", "right of", "above", "below")
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
MOTIONS = ("still", "left", "right", "up", "down", "bounce", "orbit", "grow", "shrink")
DIRECTIONS = ("left", "right", "up", "down")
MAX_COUNT = 4

# Lengths of each shape per unit of equal-area radius.
SQUARE_HALF = math.sqrt(math.pi) / 2
TRIANGLE_INRADIUS = math.sqrt(math.pi / (3 * math.sqrt(3)))
CROSS_HALF = math.sqrt(9 * math.pi / 20)  # arms a third as wide as the cross
# How far a shape reaches from its centroid: left and right, up, down.
EXTENTS = {
    "circle": (1.0, 1.0, 1.0),
    "square": (SQUARE_HALF, SQUARE_HALF, SQUARE_HALF),
    "triangle": (math.sqrt(3) * TRIANGLE_INRADIUS, 2 * TRIANGLE_INRADIUS, TRIANGLE_INRADIUS),
    "cross": (CROSS_HALF, CROSS_HALF, CROSS_HALF),
}


def _check(kind: str, value: object, valid: Any) -> None:
    if value not in valid:
        raise ValueError(f"unknown {kind} {value!r}: valid are {', '.join(map(str, valid))}")


@dataclass(frozen=True, slots=True)
class Motion:
    """What a thing does in the course of a clip.

    Attributes:
        kind: one of `MOTIONS`. "bounce" falls and rises twice, "orbit" is one clockwise turn that
            starts at its top.
        speed: extent of the motion per clip, in canvas sides: the way of a straight motion, the
            height of a bounce, the diameter of an orbit; for growth the log ratio of radii.
        then: a second motion that fills the second half of the clip, the first filling the first.
        becomes: the colour that the thing has from the middle of the clip on.
    """

    kind: str = "still"
    speed: float = 0.0
    then: Motion | None = None
    becomes: str | None = None

    def __post_init__(self) -> None:
        _check("motion", self.kind, MOTIONS)
        if not 0.0 <= self.speed <= 1.0:
            raise ValueError(f"speed {self.speed} is outside 0 to 1 canvas sides per clip")
        if self.becomes is not None:
            _check("color", self.becomes, COLORS)
        if self.then is not None and (self.then.then or self.then.becomes):
            raise ValueError("a second motion has neither a third nor a color change of its own")

    @property
    def phases(self) -> tuple[Motion, ...]:
        """The one or two motions in their order."""
        return (self,) if self.then is None else (self, self.then)

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(phase.kind for phase in self.phases)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Motion:
        then = data.get("then")
        fields = {key: value for key, value in data.items() if key != "then"}
        return _build(cls, {**fields, "then": None if then is None else cls.from_dict(then)})


@dataclass(frozen=True, slots=True)
class Thing:
    """One shape; `x` (rightwards) and `y` (downwards) are its centroid at frame 0, in [0, 1]."""

    shape: str
    color: str
    size: str
    x: float
    y: float
    motion: Motion = Motion()

    def __post_init__(self) -> None:
        _check("shape", self.shape, SHAPES)
        _check("color", self.color, COLORS)
        _check("size", self.size, SIZES)
        if not (0.0 <= self.x <= 1.0 and 0.0 <= self.y <= 1.0):
            raise ValueError(f"centre ({self.x}, {self.y}) is outside the canvas, 0 to 1")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Thing:
        motion = Motion.from_dict(data.get("motion", {}))
        return _build(cls, {**data, "motion": motion})


@dataclass(frozen=True, slots=True)
class Scene:
    """The truth about one image or clip: its things, later ones painted over earlier ones."""

    things: tuple[Thing, ...]
    background: str = DEFAULT_BACKGROUND

    def __post_init__(self) -> None:
        _check("background", self.background, BACKGROUNDS)

    def as_dict(self) -> dict[str, Any]:
        """The scene as JSON-ready dictionaries, lists, numbers and strings."""
        return {"things": [asdict(thing) for thing in self.things], "background": self.background}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Scene:
        """The inverse of `as_dict`; raises ValueError for what is not a scene."""
        things = tuple(Thing.from_dict(thing) for thing in data.get("things", ()))
        return _build(cls, {**data, "things": things})


@dataclass(frozen=True, slots=True)
class Group:
    """`count` alike things as a caption names them; None and () stand for what it leaves open.

    Attributes:
        motion: one or two kinds of `MOTIONS`, in their order; only for a single thing.
        becomes: the colour it turns to; only for a single thing.
    """

    shape: str
    color: str | None = None
    size: str | None = None
    count: int = 1
    motion: tuple[str, ...] = ()
    becomes: str | None = None

    def __post_init__(self) -> None:
        _check("shape", self.shape, SHAPES)
        _check("count", self.count, range(1, MAX_COUNT + 1))
        if self.color is not None:
            _check("color", self.color, COLORS)
        if self.size is not None:
            _check("size", self.size, SIZES)
        if self.becomes is not None:
            _check("color", self.becomes, COLORS)
        for kind in self.motion:
            _check("motion", kind, MOTIONS)
        if len(self.motion) > 2:
            raise ValueError(f"{len(self.motion)} motions of one thing: a clip holds at most 2")
        if self.count > 1 and self.moves:
            raise ValueError(f"motion of {self.count} things at once: only a single thing moves")

    @property
    def moves(self) -> bool:
        """Whether the caption says anything about change in time."""
        return bool(self.motion) or self.becomes is not None


@dataclass(frozen=True, slots=True)
class Description:
    """What a caption says of a scene.

    `relation`, one of `RELATIONS`, holds between the first group and the second, two single things
    of which no motion is told.
    """

    groups: tuple[Group, ...]
    relation: str | None = None
    background: str | None = None

    def __post_init__(self) -> None:
        if not self.groups:
            raise ValueError("a description names at least one thing")
        if self.background is not None:
            _check("background", self.background, BACKGROUNDS)
        if self.relation is None:
            return
        _check("relation", self.relation, RELATIONS)
        if len(self.groups) != 2 or any(g.count > 1 or g.moves for g in self.groups):
            raise ValueError(f"relation {self.relation!r} needs two single things without motion")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Description:
        """The inverse of `as_dict`; raises ValueError for what is not a description."""
        groups = tuple(
            _build(Group, {**group, "motion": tuple(group.get("motion", ()))})
            for group in data.get("groups", ())
        )
        return _build(cls, {**data, "groups": groups})


def _build(cls: type, fields: Mapping[str, Any]) -> Any:
    try:
        return cls(**fields)
    except TypeError as error:
        raise ValueError(f"not a {cls.__name__.lower()}: {error}") from None
