"""Training and test samples: frames, captions and their truth, as a function of (seed, index)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TypeVar

import torch

from statefilm.data.world import splits
from statefilm.data.world.captions import canonical, paraphrase
from statefilm.data.world.layout import place
from statefilm.data.world.motion import reach
from statefilm.data.world.render import render
from statefilm.data.world.scene import (
    BACKGROUNDS,
    COLORS,
    DEFAULT_BACKGROUND,
    DIRECTIONS,
    MOTIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    Description,
    Group,
    Motion,
    Scene,
    Thing,
)

Item = TypeVar("Item")
MOVING = tuple(kind for kind in MOTIONS if kind != "still")
PARAPHRASED = 0.3  # the part of captions that are not canonical
ORDERS = ("random", "reading")
_TRIES = 500

IMAGE_MIX = {
    "single": 0.04,
    "color": 0.12,
    "two": 0.12,
    "counting": 0.16,
    "position": 0.18,
    "color_attr": 0.18,
    "size": 0.04,
    "background": 0.04,
    "color_counting": 0.05,
    "color_position": 0.07,
}
CLIP_MIX = {
    "motion": 0.72,
    "motion_two": 0.12,
    "motion_then": 0.06,
    "color_change": 0.05,
    "still": 0.05,
}


@dataclass(frozen=True, slots=True)
class WorldBatch:
    """Samples: `frames` float32 [B, 3, T, H, W] in [-1, 1]; captions, truths and what is said."""

    frames: torch.Tensor
    captions: list[str]
    scenes: list[Scene]
    descriptions: list[Description]


def sample_batch(
    seed: int,
    start: int,
    count: int,
    *,
    size: int = 64,
    num_frames: int = 1,
    split: str = "train",
    mix: Mapping[str, float] | None = None,
    order: str = "random",
    device: torch.device | str = "cpu",
) -> WorldBatch:
    """Draws the samples `start` to `start + count - 1` of a seed.

    A sample is a function of seed, index, split, mix and order, whatever the batch it is drawn in.
    Size and number of frames only say how it is rendered, but that below 64 pixels there are no
    crosses.

    Args:
        size: side of the canvas in pixels, 32 to 256.
        num_frames: 1 draws images, more draws clips in which things move.
        split: "train" leaves out what `splits` holds out, "heldout" draws only that, or "all".
        mix: weight of each family, a key of `FAMILIES`; by default `IMAGE_MIX` or `CLIP_MIX`.
        order: in which captions name two single things of no told relation: "random", or "reading",
            that one first which begins further left and up, as people tend to tell of pictures.
            "train" then leaves out scenes in which they stand in a held-out relation, since the
            order tells of it.
    """
    if split not in splits.SPLITS:
        raise ValueError(f"unknown split {split!r}: valid are {', '.join(splits.SPLITS)}")
    if count < 1:
        raise ValueError(f"count {count} is not a positive number of samples")
    if mix is None:
        mix = IMAGE_MIX if num_frames == 1 else CLIP_MIX
    _check_mix(mix)
    if order not in ORDERS:
        raise ValueError(f"unknown order {order!r}: valid are {', '.join(ORDERS)}")
    samples = [
        _sample(_Draw(f"{seed}:{index}", split, legible_shapes(size)), mix, order)
        for index in range(start, start + count)
    ]
    scenes = [scene for _, scene, _ in samples]
    return WorldBatch(
        frames=render(scenes, size=size, num_frames=num_frames, device=device),
        captions=[caption for _, _, caption in samples],
        scenes=scenes,
        descriptions=[description for description, _, _ in samples],
    )


def compose(description: Description, seed: int, index: int = 0, *, split: str = "all") -> Scene:
    """A random scene of which a description is true: the exact things named, nothing else.

    A pure function of its arguments. Properties that the description leaves open are random; the
    background is then black and things are still.
    """
    return _compose(description, _Draw(f"{seed}:{index}", split, SHAPES))


def legible_shapes(size: int) -> tuple[str, ...]:
    """The shapes that can be told apart on a canvas of a size in pixels."""
    return SHAPES if size >= 64 else SHAPES[:3]


class _Draw:
    """One sample's random choices under the limits of a split."""

    def __init__(self, key: str, split: str, shapes: Sequence[str]) -> None:
        self.uniform = Random(key).random
        self.split = split
        self.shapes = shapes

    def pick(self, items: Sequence[Item]) -> Item:
        return items[int(self.uniform() * len(items))]

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def shape(self) -> str:
        return self.pick(self.shapes)

    def two_shapes(self) -> tuple[str, str]:
        first = self.shape()
        return first, self.pick([shape for shape in self.shapes if shape != first])

    def color(self, shape: str, *, other_than: str | None = None) -> str:
        colors = [c for c in COLORS if c != other_than]
        if self.split == "train":
            colors = [c for c in colors if (c, shape) not in splits.HELDOUT_PAIRS]
        return self.pick(colors)

    def speed(self) -> float:
        low, high = splits.SPEEDS
        while True:
            speed = low + (high - low) * self.uniform()
            if self.split != "train" or not splits.speed_is_heldout(speed):
                return speed


def _sample(draw: _Draw, mix: Mapping[str, float], order: str) -> tuple[Description, Scene, str]:
    family = FAMILIES[_weighted(draw, mix)]
    for _ in range(_TRIES):
        description = family(draw)
        if draw.split == "train" and splits.is_heldout(description):
            continue
        scene = _compose(description, draw)
        if order == "reading" and _is_open_pair(description):
            description, scene = _in_reading_order(description, scene)
            if draw.split == "train" and splits.pair_is_heldout(*scene.things):
                continue
        if draw.split != "heldout" or (
            splits.is_heldout(description) or splits.scene_is_heldout(scene)
        ):
            caption = canonical(description)
            if draw.chance(PARAPHRASED):
                caption = paraphrase(description, draw.pick)
            return description, scene, caption
    raise RuntimeError(f"no sample of split {draw.split!r} found in {_TRIES} tries")


def _is_open_pair(description: Description) -> bool:
    """Whether it names two single things and does not say how they lie."""
    groups = description.groups
    return len(groups) == 2 and description.relation is None and all(g.count == 1 for g in groups)


def _in_reading_order(description: Description, scene: Scene) -> tuple[Description, Scene]:
    """Both with the thing first that lies further left, or further up where that is more."""
    first, second = scene.things
    if first.x + first.y <= second.x + second.y:
        return description, scene
    return (
        replace(description, groups=description.groups[::-1]),
        replace(scene, things=(second, first)),
    )


def _compose(description: Description, draw: _Draw) -> Scene:
    for _ in range(_TRIES):
        things = [thing for group in description.groups for thing in _things(group, draw)]
        reaches = [reach(thing.shape, thing.size, thing.motion) for thing in things]
        centres = place(reaches, draw.uniform, description.relation)
        if centres:
            placed = (replace(t, x=x, y=y) for t, (x, y) in zip(things, centres, strict=True))
            return Scene(tuple(placed), description.background or DEFAULT_BACKGROUND)
    raise ValueError(f"no room on the canvas for {canonical(description)!r}")


def _things(group: Group, draw: _Draw) -> list[Thing]:
    size = group.size or draw.pick(SIZES)
    return [
        Thing(group.shape, group.color or draw.color(group.shape), size, 0.5, 0.5, motion)
        for motion in [_motion(group, draw)] * group.count
    ]


def _motion(group: Group, draw: _Draw) -> Motion:
    kinds = group.motion or ("still",)
    phases = [Motion(kind, 0.0 if kind == "still" else draw.speed()) for kind in kinds]
    return replace(phases[0], then=phases[1] if phases[1:] else None, becomes=group.becomes)


def _single(draw: _Draw) -> Description:
    return Description((Group(draw.shape()),))


def _color(draw: _Draw) -> Description:
    return Description((_colored(draw),))


def _two(draw: _Draw) -> Description:
    return Description(tuple(Group(shape) for shape in draw.two_shapes()))


def _counting(draw: _Draw) -> Description:
    return Description((Group(draw.shape(), count=draw.pick((2, 3, 4))),))


def _position(draw: _Draw) -> Description:
    groups = tuple(Group(shape) for shape in draw.two_shapes())
    return Description(groups, draw.pick(RELATIONS))


def _color_attr(draw: _Draw) -> Description:
    return Description(_colored_pair(draw, *draw.two_shapes()))


def _size(draw: _Draw) -> Description:
    group = _colored(draw) if draw.chance(0.7) else Group(draw.shape())
    return Description((replace(group, size=draw.pick(SIZES)),))


def _background(draw: _Draw) -> Description:
    families = (_color, _color, _color_attr, _counting, _position)
    return replace(draw.pick(families)(draw), background=draw.pick(tuple(BACKGROUNDS)))


def _color_counting(draw: _Draw) -> Description:
    return Description((replace(_colored(draw), count=draw.pick((2, 3, 4))),))


def _color_position(draw: _Draw) -> Description:
    return Description(_colored_pair(draw, draw.shape(), draw.shape()), draw.pick(RELATIONS))


def _moving(draw: _Draw) -> Description:
    return Description((replace(_mover(draw), motion=(draw.pick(MOVING),)),))


def _moving_two(draw: _Draw) -> Description:
    groups = list(_colored_pair(draw, *draw.two_shapes()))
    moving = int(draw.chance(0.5))
    groups[moving] = replace(groups[moving], motion=(draw.pick(MOVING),))
    groups[1 - moving] = replace(groups[1 - moving], motion=("still",))
    return Description(tuple(groups))


def _moving_then(draw: _Draw) -> Description:
    first = draw.pick(DIRECTIONS)
    second = draw.pick([kind for kind in DIRECTIONS if kind != first])
    return Description((replace(_mover(draw), motion=(first, second)),))


def _color_change(draw: _Draw) -> Description:
    group = _colored(draw)
    return Description((replace(group, becomes=draw.color(group.shape, other_than=group.color)),))


def _still(draw: _Draw) -> Description:
    return Description((replace(_mover(draw), motion=("still",)),))


def _mover(draw: _Draw) -> Group:
    group = _colored(draw) if draw.chance(0.85) else Group(draw.shape())
    return replace(group, size=draw.pick(SIZES)) if draw.chance(0.1) else group


def _colored(draw: _Draw) -> Group:
    shape = draw.shape()
    return Group(shape, draw.color(shape))


def _colored_pair(draw: _Draw, first: str, second: str) -> tuple[Group, Group]:
    color = draw.color(first)
    return Group(first, color), Group(second, draw.color(second, other_than=color))


FAMILIES: dict[str, Callable[[_Draw], Description]] = {
    "single": _single,
    "color": _color,
    "two": _two,
    "counting": _counting,
    "position": _position,
    "color_attr": _color_attr,
    "size": _size,
    "background": _background,
    "color_counting": _color_counting,
    "color_position": _color_position,
    "motion": _moving,
    "motion_two": _moving_two,
    "motion_then": _moving_then,
    "color_change": _color_change,
    "still": _still,
}


def _weighted(draw: _Draw, mix: Mapping[str, float]) -> str:
    left = draw.uniform() * math.fsum(mix.values())
    for family, weight in mix.items():
        left -= weight
        if left < 0:
            return family
    return max(mix, key=lambda family: mix[family])


def _check_mix(mix: Mapping[str, float]) -> None:
    for family, weight in mix.items():
        if family not in FAMILIES:
            raise ValueError(f"unknown family {family!r}: valid are {', '.join(FAMILIES)}")
        if not (weight >= 0 and math.isfinite(weight)):
            raise ValueError(f"weight {weight} of family {family!r} is not a finite number >= 0")
    if not sum(mix.values()) > 0:
        raise ValueError("the mix of families has no positive weight")
