"""The renderer and the motions, against areas, centroids and supersampled polygons."""

import itertools
import math

import pytest
import torch
from PIL import Image, ImageDraw

from statefilm.data.world import Motion, Scene, Thing, render, sample_batch, tracks
from statefilm.data.world.motion import reach
from statefilm.data.world.render import signed_distance
from statefilm.data.world.scene import (
    BACKGROUNDS,
    COLORS,
    CROSS_HALF,
    EXTENTS,
    MOTIONS,
    RADIUS,
    SHAPES,
)


def level(color):
    return torch.tensor(color, dtype=torch.float32) / 127.5 - 1


def alpha_of(thing, size, num_frames=1):
    """The coverage of one thing in each frame, [T, H, W], from white drawn on black."""
    scene = Scene((Thing(thing.shape, "white", thing.size, thing.x, thing.y, thing.motion),))
    red = render([scene], size=size, num_frames=num_frames)[0, 0]
    low, high = level(BACKGROUNDS["black"])[0], level(COLORS["white"])[0]
    return (red - low) / (high - low)


def supersampled(shape, x, y, radius, size, factor=32):
    """Coverage of a polygon drawn by another library at `factor` times the size, [H, W]."""
    side, top, bottom = EXTENTS[shape]
    arm = CROSS_HALF / 3
    corners = {
        "circle": [(math.cos(t / 64 * math.pi), math.sin(t / 64 * math.pi)) for t in range(128)],
        "square": [(-side, -side), (side, -side), (side, side), (-side, side)],
        "triangle": [(0, -top), (side, bottom), (-side, bottom)],
        "cross": [
            *[(-arm, -side), (arm, -side), (arm, -arm), (side, -arm), (side, arm), (arm, arm)],
            *[(arm, side), (-arm, side), (-arm, arm), (-side, arm), (-side, -arm), (-arm, -arm)],
        ],
    }[shape]
    image = Image.new("L", (size * factor, size * factor))
    points = [
        ((x + dx * radius) * factor - 0.5, (y + dy * radius) * factor - 0.5) for dx, dy in corners
    ]
    ImageDraw.Draw(image).polygon(points, fill=255)
    data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).float() / 255
    return data.reshape(size, factor, size, factor).mean((1, 3))


@pytest.mark.parametrize("size", [32, 64, 256])
@pytest.mark.parametrize("shape", SHAPES)
def test_shape_has_its_area_and_centroid(shape, size):
    thing = Thing(shape, "red", "large", 0.437, 0.561)
    alpha = alpha_of(thing, size)[0].double()
    area = math.pi * (RADIUS["large"] * size) ** 2
    assert float(alpha.sum()) == pytest.approx(area, rel=0.015)
    pixels = (torch.arange(size) + 0.5) / size
    assert float((alpha.sum(0) * pixels).sum() / alpha.sum()) == pytest.approx(0.437, abs=2e-3)
    assert float((alpha.sum(1) * pixels).sum() / alpha.sum()) == pytest.approx(0.561, abs=2e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_matches_supersampling(shape):
    for x, y in [(0.5, 0.5), (0.413, 0.377), (0.622, 0.511)]:
        drawn = alpha_of(Thing(shape, "red", "large", x, y), 64)[0]
        truth = supersampled(shape, x * 64, y * 64, RADIUS["large"] * 64, 64)
        error = (drawn - truth).abs()
        assert float(error.max()) < 0.3
        assert float(error.sum() / truth.sum()) < 0.03


@pytest.mark.parametrize("shape", SHAPES)
def test_signed_distance_has_unit_slope_and_changes_sign_at_the_outline(shape):
    side, top, bottom = EXTENTS[shape]
    one = torch.tensor(1.0)
    for dx, dy, edge in [(0.0, -1.0, top), (0.0, 1.0, bottom)]:
        for offset in (-0.2, 0.0, 0.2):
            d = signed_distance(
                shape, torch.tensor(dx * (edge + offset)), torch.tensor(dy * (edge + offset)), one
            )
            slope = 0.5 if (shape, dy) == ("triangle", -1.0) else 1.0  # at the tip: to its edges
            assert float(d) == pytest.approx(slope * offset, abs=1e-6)
    assert float(signed_distance(shape, torch.zeros(()), torch.zeros(()), one)) < -0.35
    assert float(signed_distance(shape, torch.tensor(side + 0.5), torch.zeros(()), one)) > 0.35


@pytest.mark.parametrize("size", [32, 50, 64, 128, 256])
def test_frames_have_the_named_colors(size):
    frames = render([Scene((Thing("circle", "orange", "large", 0.5, 0.5),), "navy")], size=size)
    assert frames.shape == (1, 3, 1, size, size)
    assert frames.dtype == torch.float32
    assert torch.allclose(frames[0, :, 0, 0, 0], level(BACKGROUNDS["navy"]), atol=1e-6)
    middle = frames[0, :, 0, size // 2, size // 2]
    assert torch.allclose(middle, level(COLORS["orange"]), atol=1e-6)


def test_later_things_cover_earlier_ones():
    below, above = (
        Thing("square", "red", "large", 0.5, 0.5),
        Thing("circle", "cyan", "small", 0.5, 0.5),
    )
    middle = render([Scene((below, above))])[0, :, 0, 32, 32]
    assert torch.allclose(middle, level(COLORS["cyan"]), atol=1e-6)


def test_scenes_of_different_sizes_render_as_alone():
    scenes = sample_batch(3, 0, 12, num_frames=5).scenes + sample_batch(3, 0, 12).scenes
    together = render([*scenes, Scene(())], num_frames=5)
    alone = torch.cat([render([scene], num_frames=5) for scene in [*scenes, Scene(())]])
    assert torch.equal(together, alone)


def test_no_scenes_give_no_frames():
    assert render([], num_frames=3).shape == (0, 3, 3, 64, 64)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"size": 16}, "size 16"), ({"size": 512}, "size 512"), ({"num_frames": 0}, "num_frames 0")],
)
def test_bad_sizes_are_named(options, named):
    with pytest.raises(ValueError, match=named):
        render([Scene(())], **options)


@pytest.mark.parametrize("num_frames", [5, 17, 33])
def test_each_motion_does_what_it_says(num_frames):
    speed = 0.3
    scenes = [
        Scene((Thing("circle", "red", "small", 0.5, 0.5, Motion(kind, speed)),)) for kind in MOTIONS
    ]
    state = tracks(scenes, num_frames)
    x, y, radius = ((v[:, 0] - v[:, 0, :1]) for v in (state.x, state.y, state.radius))
    change = {k: (x[i], y[i], radius[i]) for i, k in enumerate(MOTIONS)}
    zero = torch.zeros(num_frames)
    ramp = torch.linspace(0, speed, num_frames)
    straight = {
        "left": (-ramp, zero),
        "right": (ramp, zero),
        "up": (zero, -ramp),
        "down": (zero, ramp),
    }
    for kind, (dx, dy) in {"still": (zero, zero), **straight}.items():
        torch.testing.assert_close(change[kind], (dx, dy, zero), atol=1e-6, rtol=0)
    drop = change["bounce"][1]
    assert torch.allclose(drop[:: (num_frames - 1) // 4], torch.tensor([0, 1, 0, 1, 0]) * speed)
    dx, dy, _ = change["orbit"]
    turned = torch.hypot(dx, dy - speed / 2)
    torch.testing.assert_close(turned, torch.full_like(turned, speed / 2))
    assert dx[(num_frames - 1) // 4] > 0  # clockwise from the top
    small = RADIUS["small"]
    assert float(change["grow"][2][-1]) == pytest.approx(small * (math.exp(speed) - 1))
    assert float(change["shrink"][2][-1]) == pytest.approx(small * (math.exp(-speed) - 1))


def test_two_phases_follow_each_other_and_colors_change_in_the_middle():
    motion = Motion("right", 0.4, Motion("down", 0.2), "blue")
    state = tracks([Scene((Thing("circle", "red", "small", 0.2, 0.3, motion),))], 9)
    x = torch.tensor([0.2, 0.3, 0.4, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6])
    y = torch.tensor([0.3, 0.3, 0.3, 0.3, 0.3, 0.35, 0.4, 0.45, 0.5])
    torch.testing.assert_close((state.x[0, 0], state.y[0, 0]), (x, y))
    assert state.color[0, 0].tolist() == [list(COLORS["red"])] * 4 + [list(COLORS["blue"])] * 5


@pytest.mark.parametrize(
    "kinds",
    [
        *((kind,) for kind in MOTIONS),
        *[("right", "down"), ("up", "grow"), ("left", "right")],
        *[("shrink", "orbit"), ("grow", "bounce")],
    ],
)
def test_reach_bounds_the_track_tightly(kinds):
    then = Motion(kinds[1], 0.35) if kinds[1:] else None
    motion = Motion(kinds[0], 0.3, then)
    for shape, size in itertools.product(SHAPES, RADIUS):
        state = tracks([Scene((Thing(shape, "red", size, 0.5, 0.5, motion),))], 801)
        x, y, radius = (v[0, 0].double() for v in (state.x - 0.5, state.y - 0.5, state.radius))
        side, top, bottom = EXTENTS[shape]
        truth = [
            float(edge.max())
            for edge in (
                side * radius - x,
                side * radius + x,
                top * radius - y,
                bottom * radius + y,
            )
        ]
        for bound, value in zip(reach(shape, size, motion), truth, strict=True):
            assert value - 1e-6 <= bound <= value + 1e-4


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("num_frames", [1, 9])
def test_things_stay_inside_and_apart_in_all_frames(size, num_frames):
    mix = (
        None if num_frames == 1 else {"motion": 1, "motion_two": 2, "motion_then": 1, "counting": 1}
    )
    batch = sample_batch(11, 0, 48, size=size, num_frames=num_frames, mix=mix, split="all")
    background = batch.frames[..., :1, :1]
    edges = torch.cat([batch.frames[..., [0, -1], :].flatten(-2),
                       batch.frames[..., [0, -1]].flatten(-2)], -1)  # fmt: skip
    assert torch.equal(edges, background[..., 0].expand_as(edges))
    for scene in batch.scenes:
        masks = torch.stack([alpha_of(t, size, num_frames) > 0.5 for t in scene.things])
        assert masks.flatten(2).any(-1).all()
        # Grown by one pixel each, no two touch: at least two pixels lie between them.
        grown = torch.nn.functional.max_pool2d(masks.float(), 3, stride=1, padding=1)
        assert float(grown.sum(0).max()) == 1.0
