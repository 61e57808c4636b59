"""Both verdicts on hand-made readings: GenEval's rules one by one, and what strict adds."""

import pytest

from statefilm.evaluation.world.motion import ClipReading
from statefilm.evaluation.world.reader import Found, Reading
from statefilm.evaluation.world.verdicts import judge, judge_clip, relations

BOTH, EXTRA, NEITHER = (True, True), (True, False), (False, False)


def found(shape, color="red", x=0.5, y=0.5, width=0.2, height=0.2, overlap=0.9) -> Found:
    box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return Found(shape, color, "large", x, y, width * height, box, overlap)


def verdict(prompt, *objects, unexplained=0.0):
    ordered = tuple(sorted(objects, key=lambda thing: -thing.overlap))
    both = judge(Reading(ordered, "black", unexplained), prompt)
    return both["parity"], both["strict"]


SINGLE = {"include": [{"class": "circle", "count": 1}], "exclude": []}
TWO = {"include": [{"class": "circle", "count": 1}, {"class": "cross", "count": 1}], "exclude": []}
COUNTING = {
    "include": [{"class": "circle", "count": 2}],
    "exclude": [{"class": "circle", "count": 3}],
}
COLORS = {"include": [{"class": "circle", "count": 1, "color": "red"}]}
POSITION = {
    "include": [
        {"class": "circle", "count": 1},
        {"class": "cross", "count": 1, "position": ["left of", 0]},
    ],
    "exclude": [],
}
ATTRIBUTION = {
    "include": [
        {"class": "circle", "count": 1, "color": "red"},
        {"class": "cross", "count": 1, "color": "blue"},
    ],
    "exclude": [],
}


@pytest.mark.parametrize(
    ("prompt", "objects", "expected"),
    [
        (SINGLE, [found("circle")], BOTH),
        (SINGLE, [found("square")], NEITHER),
        (SINGLE, [], NEITHER),
        (SINGLE, [found("circle"), found("square")], EXTRA),
        (SINGLE, [found("circle"), found("circle")], EXTRA),
        (TWO, [found("circle"), found("cross")], BOTH),
        (TWO, [found("circle"), found("circle")], NEITHER),
        (COUNTING, [found("circle")] * 2, BOTH),
        (COUNTING, [found("circle")], NEITHER),
        (COUNTING, [found("circle")] * 3, NEITHER),
        (COUNTING, [found("circle")] * 2 + [found("cross")], EXTRA),
        (COLORS, [found("circle")], BOTH),
        (COLORS, [found("circle", "blue")], NEITHER),
        # Of each shape the best detections count.
        (COLORS, [found("circle"), found("circle", "blue", overlap=0.8)], EXTRA),
        (COLORS, [found("circle"), found("circle", "blue", overlap=0.95)], NEITHER),
        (POSITION, [found("circle", x=0.7), found("cross", x=0.2)], BOTH),
        (POSITION, [found("circle", x=0.2), found("cross", x=0.7)], NEITHER),
        (POSITION, [found("circle", x=0.5), found("cross", x=0.5, y=0.1)], NEITHER),
        (ATTRIBUTION, [found("circle"), found("cross", "blue")], BOTH),
        (ATTRIBUTION, [found("circle", "blue"), found("cross")], NEITHER),
    ],
)
def test_judge(prompt, objects, expected):
    assert verdict(prompt, *objects) == expected


def test_unexplained_pixels_are_for_strict_alone():
    assert verdict(SINGLE, found("circle"), unexplained=0.02) == BOTH
    assert verdict(SINGLE, found("circle"), unexplained=0.021) == EXTRA


@pytest.mark.parametrize(
    ("dx", "dy", "expected"),
    [
        # Boxes are 0.2 wide, so offsets shrink by 0.1 * (0.2 + 0.2) = 0.04 and are compared with
        # half of the distance.
        (-0.3, 0.0, {"left of"}),
        (0.3, 0.0, {"right of"}),
        (0.0, -0.3, {"above"}),
        (0.0, 0.3, {"below"}),
        (0.3, 0.3, {"right of", "below"}),
        (0.039, 0.0, set()),
        (0.07, 0.0, set()),  # (0.07 - 0.04) / 0.07 < 0.5
        (0.09, 0.0, {"right of"}),  # (0.09 - 0.04) / 0.09 > 0.5
        (-0.3, 0.2, {"left of"}),  # across: (0.2 - 0.04) / 0.36 < 0.5
        (-0.3, 0.25, {"left of", "below"}),  # across: (0.25 - 0.04) / 0.39 > 0.5
    ],
)
def test_relations_by_the_rule_of_geneval(dx, dy, expected):
    assert relations(found("circle", x=0.5 + dx, y=0.5 + dy), found("cross")) == expected


def test_relations_shrink_by_the_size_along_their_own_axis():
    # (0.2 - 0.1 * (1.0 + 0.2)) / 0.2 < 0.5
    assert relations(found("circle", x=0.3, width=1.0), found("cross")) == set()
    assert relations(found("circle", x=0.3, height=1.0), found("cross")) == {"left of"}


def test_judge_clip():
    prompt = {
        "include": [{"class": "circle", "count": 1, "color": "red", "motion": "up"}],
        "exclude": [],
    }
    right = {"motion_class": True, "video_color": True, "video_shape": True, "video_all": True}
    assert judge_clip(ClipReading("up", "red", "circle", alone=True), prompt) == right
    assert judge_clip(ClipReading("up", "red", "circle", alone=False), prompt) == {
        **right,
        "video_all": False,
    }
    assert judge_clip(ClipReading("down", "red", "cross", alone=True), prompt) == {
        "motion_class": False,
        "video_color": True,
        "video_shape": False,
        "video_all": False,
    }
    assert not any(judge_clip(ClipReading(), prompt).values())
