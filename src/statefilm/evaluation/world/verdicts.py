"""Whether a picture shows what its prompt asks for: GenEval's rules, and exactly that.

Prompts come as GenEval's metadata: "include" and "exclude" are lists of requirements with the keys
"class" (here a shape), "count", "color" and "position" (a relation and the index of the required
group that it refers to), and for clips of one moving thing "motion".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from statefilm.evaluation.world.motion import ClipReading
from statefilm.evaluation.world.reader import Found, Reading

MAX_UNEXPLAINED = 0.02  # part of the pixels
# GenEval, evaluate_images.py: objects part by more than this much of their sizes, in a direction
# at least this much along an axis.
POSITION_THRESHOLD = 0.1
DIRECTION_THRESHOLD = 0.5


def judge(found: Reading, prompt: Mapping[str, Any]) -> dict[str, bool]:
    """Both verdicts on one picture.

    Returns:
        "parity": GenEval's rules (Ghosh et al. 2023, evaluate_images.py): of each shape the best
        detections count, things that are not asked for do no harm unless excluded.
        "strict": parity, and the picture holds the things asked for, nothing else, and at most 2 %
        of unexplained pixels.
    """
    parity = _parity(found.objects, prompt)
    wanted = sum(need["count"] for need in prompt["include"])
    strict = parity and len(found.objects) == wanted and found.unexplained <= MAX_UNEXPLAINED
    return {"parity": parity, "strict": strict}


def judge_clip(found: ClipReading, prompt: Mapping[str, Any]) -> dict[str, bool]:
    """The verdicts on a clip of the one thing that a prompt includes.

    Returns:
        "motion_class", "video_color" and "video_shape", each on the thing that moves most, and
        "video_all": all three, with no other thing and the thing itself in every frame.
    """
    (need,) = prompt["include"]
    verdict = {
        "motion_class": found.motion == need["motion"],
        "video_color": found.color == need["color"],
        "video_shape": found.shape == need["class"],
    }
    return {**verdict, "video_all": all(verdict.values()) and found.alone}


def relations(a: Found, b: Found) -> set[str]:
    """Where a lies as seen from b: GenEval's rule on the boxes, none for things that overlap."""
    offset, beyond = [], []
    for low, high in ((0, 2), (1, 3)):
        away = (a.box[low] + a.box[high] - b.box[low] - b.box[high]) / 2
        sizes = a.box[high] - a.box[low] + b.box[high] - b.box[low]
        offset.append(away)
        beyond.append(math.copysign(max(abs(away) - POSITION_THRESHOLD * sizes, 0.0), away))
    if max(map(abs, beyond)) < 1e-5:
        return set()
    dx, dy = (value / math.hypot(*offset) for value in beyond)
    holds = {
        "left of": dx < -DIRECTION_THRESHOLD,
        "right of": dx > DIRECTION_THRESHOLD,
        "above": dy < -DIRECTION_THRESHOLD,
        "below": dy > DIRECTION_THRESHOLD,
    }
    return {relation for relation, true in holds.items() if true}


def _parity(objects: Sequence[Found], prompt: Mapping[str, Any]) -> bool:
    matched: list[list[Found]] = []
    for need in prompt["include"]:
        group = _of_shape(objects, need["class"])[: need["count"]]
        if len(group) < need["count"]:
            return False
        if "color" in need and any(thing.color != need["color"] for thing in group):
            return False
        if "position" in need:
            relation, target = need["position"]
            if any(relation not in relations(a, b) for a in group for b in matched[target]):
                return False
        matched.append(group)
    return all(
        len(_of_shape(objects, ban["class"])) < ban["count"] for ban in prompt.get("exclude", ())
    )


def _of_shape(objects: Sequence[Found], shape: str) -> list[Found]:
    return [thing for thing in objects if thing.shape == shape]
