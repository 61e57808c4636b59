"""Dimensions of a clip's faith to its prompt, shaped as VBench's (arXiv 2311.17982, 2503.21755).

Each takes the evidence of one clip and what the prompt says, and gives 0 to 1. Shares of frames
have all frames in the denominator, also those in which nothing is found.
"""

from __future__ import annotations

from collections.abc import Callable

from statefilm.data.world.scene import Description, Group
from statefilm.evaluation.world.evidence import Evidence
from statefilm.evaluation.world.reader import Found, Reading
from statefilm.evaluation.world.triples import agreement
from statefilm.evaluation.world.verdicts import relations


def object_class(clip: Evidence, asked: Description) -> float:
    """The share of frames that show a thing of the shape asked for."""
    shape = asked.groups[0].shape
    return _share(clip, lambda frame: any(thing.shape == shape for thing in frame.objects))


def color(clip: Evidence, asked: Description) -> float:
    """The share of frames that show a thing of the shape in the colour asked for."""
    return _share(clip, lambda frame: bool(_like(frame, asked.groups[0])))


def multiple_objects(clip: Evidence, asked: Description) -> float:
    """The share of frames that show all things asked for."""
    return _share(
        clip, lambda frame: all(len(_like(frame, group)) >= group.count for group in asked.groups)
    )


def spatial_relationship(clip: Evidence, asked: Description) -> float:
    """The share of frames in which the relation holds, in the direction asked for."""
    first, second = asked.groups
    return _share(
        clip,
        lambda frame: any(
            asked.relation in relations(a, b)
            for a in _like(frame, first)
            for b in _like(frame, second)
        ),
    )


def motion_class(clip: Evidence, asked: Description) -> float:
    """1 where the thing that moves most moves as asked for."""
    return float((clip.motion.motion,) == asked.groups[0].motion)


def event_order(clip: Evidence, asked: Description) -> float:
    """1 where both halves of the clip show the motions asked for, in that order."""
    if clip.main is None:
        return 0.0
    return float(clip.main.phases == asked.groups[0].motion)


def dynamic_attribute(clip: Evidence, asked: Description) -> float:
    """1 where the thing has the first colour in the first half, and the second in the second."""
    if clip.main is None:
        return 0.0
    group = asked.groups[0]
    return float(clip.main.colors == (group.color, group.becomes))


def instance_preservation(clip: Evidence, asked: Description) -> float:
    """1 where each frame shows exactly as many things as asked for."""
    wanted = sum(group.count for group in asked.groups)
    return float(_share(clip, lambda frame: len(frame.objects) == wanted) == 1)


def overall_consistency(clip: Evidence, asked: Description) -> float:
    """F1 of the triples of clip and prompt, see `triples`."""
    backgrounds = [frame.background for frame in clip.readings]
    return agreement(clip.things(asked), max(backgrounds, key=backgrounds.count), asked)


Dimension = Callable[[Evidence, Description], float]
SEMANTICS: dict[str, Dimension] = {
    "object_class": object_class,
    "color": color,
    "multiple_objects": multiple_objects,
    "spatial_relationship": spatial_relationship,
    "motion_class": motion_class,
    "event_order": event_order,
    "dynamic_attribute": dynamic_attribute,
    "instance_preservation": instance_preservation,
    "overall_consistency": overall_consistency,
}
# What is judged of the clips of each task; the first tells whether a clip is right.
OF_TASK: dict[str, tuple[str, ...]] = {
    "motion_class": ("motion_class", "object_class", "color"),
    "multiple_objects": ("multiple_objects",),
    "spatial_relationship": ("spatial_relationship",),
    "event_order": ("event_order",),
    "dynamic_attribute": ("dynamic_attribute",),
}
OF_ALL = ("instance_preservation", "overall_consistency")


def _share(clip: Evidence, holds: Callable[[Reading], bool]) -> float:
    return sum(map(holds, clip.readings)) / len(clip.readings)


def _like(frame: Reading, group: Group) -> list[Found]:
    """The things of a frame that have the shape, and the colour if one is named, of a group."""
    return [
        thing
        for thing in frame.objects
        if thing.shape == group.shape and group.color in (None, thing.color)
    ]
