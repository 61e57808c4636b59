"""The world's palette, shapes and scene graphs."""

import itertools
import json
import math

import numpy as np
import pytest

from statefilm.data.world import Description, Group, Motion, Scene, Thing
from statefilm.data.world.scene import BACKGROUNDS, COLORS, EXTENTS


def cielab(rgb):
    """CIE 1976 L*a*b* of an sRGB colour under D65."""
    value = np.asarray(rgb) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    matrix = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
              [0.0193339, 0.1191920, 0.9503041]]  # fmt: skip
    x, y, z = (
        np.cbrt(c) if c > 216 / 24389 else (24389 / 27 * c + 16) / 116
        for c in matrix @ linear / [0.95047, 1.0, 1.08883]
    )
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def distance(first, second):
    return float(np.linalg.norm(cielab(first) - cielab(second)))


def test_cielab_of_known_colors():
    assert cielab((255, 0, 0)) == pytest.approx([53.24, 80.09, 67.20], abs=0.02)
    assert distance((255, 255, 255), (0, 0, 0)) == pytest.approx(100, abs=0.01)


def test_colors_are_far_apart():
    assert list(COLORS) == ["red", "green", "blue", "yellow", "purple", "orange", "cyan", "white"]
    for first, second in itertools.combinations(COLORS, 2):
        assert distance(COLORS[first], COLORS[second]) >= 25, (first, second)


def test_backgrounds_are_far_from_every_color_and_each_other():
    assert BACKGROUNDS["black"] == (20, 20, 24)
    assert len(BACKGROUNDS) >= 4
    for background, color in itertools.product(BACKGROUNDS, COLORS):
        assert distance(BACKGROUNDS[background], COLORS[color]) >= 25, (background, color)
    for first, second in itertools.combinations(BACKGROUNDS.values(), 2):
        assert distance(first, second) >= 25


def test_extents_are_those_of_unit_area_shapes():
    side, top, bottom = EXTENTS["triangle"]
    assert side * (top + bottom) == pytest.approx(math.pi)
    assert 2 * side == pytest.approx(math.hypot(side, top + bottom))  # equilateral
    assert top == pytest.approx(2 * bottom)  # measured from the centroid
    assert (2 * EXTENTS["square"][0]) ** 2 == pytest.approx(math.pi)
    assert (2 * EXTENTS["cross"][0]) ** 2 * 5 / 9 == pytest.approx(math.pi)


def test_scene_survives_json():
    motion = Motion("right", 0.3, Motion("down", 0.25), "blue")
    scene = Scene(
        (
            Thing("circle", "red", "small", 0.2, 0.3, motion),
            Thing("cross", "cyan", "large", 0.7, 1),
        ),
        "navy",
    )
    assert Scene.from_dict(json.loads(json.dumps(scene.as_dict()))) == scene


def test_description_survives_json():
    groups = (Group("circle", "red", motion=("left", "up")), Group("cross", size="small", count=3))
    description = Description(groups, background="gray")
    assert Description.from_dict(json.loads(json.dumps(description.as_dict()))) == description


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Thing("hexagon", "red", "small", 0.5, 0.5), "hexagon"),
        (lambda: Thing("circle", "pink", "small", 0.5, 0.5), "pink"),
        (lambda: Thing("circle", "red", "tiny", 0.5, 0.5), "tiny"),
        (lambda: Thing("circle", "red", "small", 1.5, 0.5), "1.5"),
        (lambda: Thing("circle", "red", "small", 0.5, math.nan), "nan"),
        (lambda: Motion("jump"), "jump"),
        (lambda: Motion("left", 2.0), "2.0"),
        (lambda: Motion("left", 0.3, Motion("up", 0.3, Motion("left", 0.3))), "third"),
        (lambda: Scene((), "pink"), "pink"),
        (lambda: Scene.from_dict({"things": [], "sky": "blue"}), "sky"),
        (lambda: Group("circle", count=5), "5"),
        (lambda: Group("circle", count=2, motion=("left",)), "2 things"),
        (lambda: Group("circle", motion=("left", "up", "left")), "3 motions"),
        (lambda: Description(()), "at least one"),
        (lambda: Description((Group("circle"),), "above"), "above"),
        (lambda: Description((Group("circle"), Group("cross")), "behind"), "behind"),
        (lambda: Description.from_dict({"groups": [{"form": "circle"}]}), "form"),
    ],
)
def test_bad_values_are_named(make, named):
    with pytest.raises(ValueError, match=named) as caught:
        make()
    assert "\n" not in str(caught.value)
