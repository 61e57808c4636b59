"""The reader on rendered truth: its gates, every colour on every background, faults, bad input."""

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from statefilm.data.world.render import render
from statefilm.data.world.sample import sample_batch
from statefilm.data.world.scene import BACKGROUNDS, COLORS, RADIUS, SHAPES, Scene, Thing
from statefilm.evaluation.world.gates import reader_gates
from statefilm.evaluation.world.reader import Reading, read_images, read_png

CORNERS = [(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)]
RED_CIRCLE = Scene((Thing("circle", "red", "large", 0.5, 0.5),))


def draw(*scenes: Scene, size: int = 64) -> torch.Tensor:
    return render(scenes, size=size)[:, :, 0]


def looks(reading: Reading) -> list[tuple[str, str, str]]:
    return sorted((thing.shape, thing.color, thing.size) for thing in reading.objects)


def truth(scene: Scene) -> list[tuple[str, str, str]]:
    return sorted((thing.shape, thing.color, thing.size) for thing in scene.things)


def disc(radius: float, size: int = 64) -> torch.Tensor:
    """A mask [size, size] of a disc in the middle of the canvas, in pixels."""
    axis = torch.arange(size) + 0.5 - size / 2
    return axis[:, None].square() + axis.square() < radius**2


@pytest.mark.parametrize("gate", reader_gates(150), ids=lambda gate: gate.name)
def test_gate(gate):
    assert gate.passed, f"{gate.right} of {gate.count}, needed {gate.needed}"


def test_gates_need_what_they_say():
    needed = {gate.name: gate.needed for gate in reader_gates(1)}
    assert set(needed.values()) == {1}
    with pytest.raises(ValueError, match="count 0"):
        reader_gates(0)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_every_look_on_every_background(size):
    """No pair of colours makes a ghost of mixed colours along the edges."""
    shapes = SHAPES if size >= 64 else (*SHAPES[:3], "square")
    scenes = [
        Scene(
            tuple(
                Thing(shape, color, "small" if index % 2 else "large", *place)
                for index, (shape, place) in enumerate(zip(shapes, CORNERS, strict=True))
            ),
            background,
        )
        for color in COLORS
        for background in BACKGROUNDS
    ]
    for scene, reading in zip(scenes, read_images(draw(*scenes, size=size)), strict=True):
        assert looks(reading) == truth(scene)
        assert reading.background == scene.background
        assert reading.unexplained == 0


def test_place_area_and_box():
    scenes = [
        Scene((Thing(shape, "cyan", size, 0.4137, 0.5811),), "navy")
        for shape in SHAPES
        for size in RADIUS
    ]
    for scene, reading in zip(scenes, read_images(draw(*scenes)), strict=True):
        (thing,), (found,) = scene.things, reading.objects
        assert (found.x, found.y) == pytest.approx((thing.x, thing.y), abs=0.1 / 64)
        assert found.area == pytest.approx(torch.pi * RADIUS[thing.size] ** 2, rel=0.05)
        left, top, right, bottom = found.box
        assert left < found.x < right and top < found.y < bottom
        assert found.overlap > 0.95
    circle = read_images(draw(RED_CIRCLE))[0].objects[0]
    assert circle.box == pytest.approx((0.37, 0.37, 0.63, 0.63), abs=1 / 64)


def test_blurred_pictures_are_read_alike():
    batch = sample_batch(3, 0, 60, split="all")
    weights = torch.tensor([1.0, 2.0, 1.0]) / 4
    images = F.pad(batch.frames[:, :, 0], (1, 1, 1, 1), mode="replicate")
    images = F.conv2d(images.flatten(0, 1)[:, None], (weights[:, None] * weights)[None, None])
    for scene, reading in zip(batch.scenes, read_images(images.view(60, 3, 64, 64)), strict=True):
        assert looks(reading) == truth(scene)


def test_a_hole_is_filled():
    image = draw(RED_CIRCLE)
    hole = disc(3)
    image[0, :, hole] = draw(Scene(()))[0, :, hole]
    (reading,) = read_images(image)
    assert looks(reading) == truth(RED_CIRCLE)
    # The hole is no part of the scene as read.
    assert reading.unexplained == pytest.approx(hole.sum().item() / 64**2, abs=0.006)


def test_specks_are_dropped_but_not_explained():
    image = draw(RED_CIRCLE)
    yellow = torch.tensor(COLORS["yellow"]) / 127.5 - 1
    for corner in range(2, 58, 9):
        image[0, :, 2:5, corner : corner + 3] = yellow[:, None, None]
    (reading,) = read_images(image)
    assert looks(reading) == truth(RED_CIRCLE)
    assert reading.unexplained >= 7 * 9 / 64**2


@pytest.mark.parametrize("fault", ["bar", "haze", "whole canvas"])
def test_what_is_no_thing_is_not_explained(fault):
    image = draw(Scene(()))
    green = torch.tensor(COLORS["green"])[:, None, None] / 127.5 - 1
    if fault == "bar":
        image[0, :, 30:34, 4:60] = green
    elif fault == "haze":
        image[0, :, :, 32:] = torch.lerp(image[0, :, :, 32:], green, 0.35)
    else:
        image[0] = green
    (reading,) = read_images(image)
    assert reading.objects == ()
    # Up to the pixels next to it, whose surroundings differ as well.
    least, most = {
        "bar": (4 * 56 / 64**2, 6 * 58 / 64**2),
        "haze": (0.5, 33 / 64),
        "whole canvas": (1.0, 1.0),
    }[fault]
    assert least <= reading.unexplained <= most


def test_noise_shows_nothing():
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for reading in read_images(images):
        assert reading.objects == ()
        assert reading.unexplained > 0.3


def test_a_picture_is_read_the_same_in_any_batch():
    images = sample_batch(5, 0, 150, split="all").frames[:, :, 0]
    together = read_images(images)
    for index in (0, 77, 149):
        (alone,) = read_images(images[index : index + 1])
        assert looks(alone) == looks(together[index])
        for one, other in zip(alone.objects, together[index].objects, strict=True):
            assert (one.x, one.y, one.area) == pytest.approx((other.x, other.y, other.area))
            assert one.box == other.box
    assert read_images(images[:0]) == []


def test_oblong_pictures_keep_their_own_units():
    wide = torch.cat([draw(RED_CIRCLE), draw(Scene(()))], dim=3)
    (found,) = read_images(wide)[0].objects
    assert (found.x, found.y) == pytest.approx((0.25, 0.5), abs=0.002)


def test_png(tmp_path):
    scene = sample_batch(7, 0, 1, split="all").scenes[0]
    pixels = ((draw(scene)[0].permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "scene.png")
    assert looks(read_png(tmp_path / "scene.png")) == truth(scene)
    Image.fromarray(pixels.numpy()).save(tmp_path / "scene.jpg")
    with pytest.raises(ValueError, match="only PNG"):
        read_png(tmp_path / "scene.jpg")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 64, 64), r"\[N, 3, H, W\]"),
        (torch.zeros(1, 4, 64, 64), r"\[1, 4, 64, 64\]"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "uint8"),
        (torch.full((1, 3, 64, 64), float("nan")), "not finite"),
    ],
)
def test_bad_input(images, message):
    with pytest.raises(ValueError, match=message):
        read_images(images)
