"""Rendered clips are read back: classes of motion, followed things, faults of clips."""

from dataclasses import replace

import pytest
import torch

from statefilm.data.world.render import render
from statefilm.data.world.sample import compose
from statefilm.data.world.scene import MOTIONS, Description, Group, Motion, Scene, Thing
from statefilm.data.world.splits import SPEEDS
from statefilm.evaluation.world.motion import ClipReading, follow, read_clips
from statefilm.evaluation.world.reader import read_images


def clip(*things: Thing, num_frames: int = 17) -> torch.Tensor:
    return render([Scene(things)], num_frames=num_frames)


def moving(kind: str, speed: float = 0.3, **changes) -> Thing:
    thing = Thing("square", "green", "large", 0.5, 0.5, Motion(kind, speed))
    return replace(thing, **changes)


@pytest.mark.parametrize("num_frames", [5, 9, 17])
def test_classes_of_rendered_motions(num_frames):
    kinds = MOTIONS * 4
    scenes = [
        compose(
            Description((Group(("circle", "cross", "square", "triangle")[i % 4], motion=(k,)),)), i
        )
        for i, k in enumerate(kinds)
    ]
    readings = read_clips(render(scenes, num_frames=num_frames))
    for kind, scene, reading in zip(kinds, scenes, readings, strict=True):
        (thing,) = scene.things
        assert reading == ClipReading(kind, thing.color, thing.shape, alone=True)


@pytest.mark.parametrize("kind", MOTIONS)
def test_classes_at_the_slowest_speed_and_under_noise(kind):
    slow = moving(kind, 0.0 if kind == "still" else SPEEDS[0], x=0.45, y=0.4, size="small")
    frames = clip(slow)
    noise = 0.12 * torch.randn(frames.shape, generator=torch.Generator().manual_seed(1))
    for reading in read_clips(torch.cat([frames, frames + noise])):
        assert reading.motion == kind


def test_played_backwards_directions_turn():
    frames = torch.cat([clip(moving(kind)) for kind in ("left", "up", "grow", "bounce")])
    assert [reading.motion for reading in read_clips(frames.flip(2))] == [
        "right", "down", "shrink", "bounce",
    ]  # fmt: skip


def test_the_thing_that_moves_is_told_among_others():
    mover = moving("right", 0.4, x=0.25, y=0.25)
    rest = Thing("circle", "blue", "small", 0.7, 0.75)
    (reading,) = read_clips(clip(rest, mover))
    assert reading == ClipReading("right", "green", "square", alone=False)


def test_crossing_things_keep_their_tracks():
    right = moving("right", 0.5, x=0.2, y=0.35, shape="circle", size="small")
    left = moving("left", 0.5, x=0.8, y=0.65, color="red", size="small")
    frames = clip(right, left)
    tracks = follow(read_images(frames[0].transpose(0, 1)))
    assert [track.frames for track in tracks] == [list(range(17))] * 2
    by_color = {track.color: track for track in tracks}
    assert by_color["green"].shape == "circle" and by_color["red"].shape == "square"
    assert by_color["green"].things[-1].x == pytest.approx(0.7, abs=0.01)
    assert by_color["red"].things[-1].x == pytest.approx(0.3, abs=0.01)


def test_a_vanished_thing_is_still_read_but_not_alone():
    frames = clip(moving("down", y=0.3))
    empty = clip()
    frames[:, :, 4:6] = empty[:, :, 4:6]
    (reading,) = read_clips(frames)
    assert reading == ClipReading("down", "green", "square", alone=False)
    frames[:, :, 4:14] = empty[:, :, 4:14]
    assert read_clips(frames) == [ClipReading()]


def test_a_path_of_no_class():
    """Two directions in turn are none of the classes of one motion."""
    corner = Thing(
        "circle", "red", "small", 0.3, 0.3, Motion("right", 0.4, then=Motion("down", 0.4))
    )
    back = Thing("circle", "red", "small", 0.3, 0.5, Motion("right", 0.4, then=Motion("left", 0.4)))
    frames = torch.cat([clip(corner), clip(back)])
    assert [reading.motion for reading in read_clips(frames)] == [None, None]


def test_empty_and_bad_clips():
    assert read_clips(clip()) == [ClipReading()]
    assert read_clips(clip()[:0]) == []
    with pytest.raises(ValueError, match="T >= 5"):
        read_clips(torch.zeros(1, 3, 4, 64, 64))
    with pytest.raises(ValueError, match=r"\[1, 3, 64, 64\]"):
        read_clips(torch.zeros(1, 3, 64, 64))
