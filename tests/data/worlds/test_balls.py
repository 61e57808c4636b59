"""Balls: exact physics, what the reader finds, and verdicts that fall on false clips."""

import math
from dataclasses import replace
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from statefilm.data.worlds import WORLDS
from statefilm.data.worlds.balls import BallsSaid, BallsTruth, Billiard, read_balls
from statefilm.data.worlds.balls.scene import RADII
from statefilm.errors import UsageError

BALLS = WORLDS["balls"]


def mean(frames, name):
    values = [v[name] for v in BALLS.verdicts(BALLS.read(frames)) if not math.isnan(v[name])]
    return sum(values) / len(values)


def billiard(key):
    truth = BALLS.compose(Random(key), 1)
    return Billiard(
        [tuple(p) for p in truth.centres[0].tolist()],
        [tuple(v) for v in truth.velocities[0].tolist()],
        truth.radii,
    )


def painted(centres, radii, colors=("red", "cyan")):
    centres = torch.as_tensor(centres, dtype=torch.float64)
    truth = BallsTruth(colors[: centres.shape[1]], radii, centres, torch.zeros_like(centres))
    return BALLS.render(truth, 64)[None]


@given(st.integers(0, 10**6))
def test_energy_is_kept_and_nothing_overlaps(key):
    balls = billiard(key)
    before = balls.energy()
    for _ in range(40):
        balls.advance(1.7)
        for i, ((x, y), r) in enumerate(zip(balls.places, balls.radii, strict=True)):
            assert r - 1e-9 <= min(x, y)
            assert max(x, y) <= 1 - r + 1e-9
            for other, s in list(zip(balls.places, balls.radii, strict=True))[i + 1 :]:
                assert math.dist((x, y), other) >= r + s - 1e-9
    assert balls.energy() == pytest.approx(before, rel=1e-12)


@given(st.integers(0, 10**6), st.floats(0.1, 30))
def test_time_runs_back_along_the_same_way(key, time):
    balls = billiard(key)
    start = torch.tensor(balls.places)
    balls.advance(time)
    balls.velocities = [(-vx, -vy) for vx, vy in balls.velocities]
    balls.advance(time)
    assert torch.allclose(torch.tensor(balls.places), start, atol=1e-6)


def test_balls_that_overlap_do_not_push_each_other_for_ever():
    row = [(0.17, 0.5), (0.5, 0.5), (0.83, 0.5)]
    balls = Billiard(row, [(0.02, 0.0), (0.0, 0.0), (-0.02, 0.0)], [0.175] * 3)
    balls.advance(1)
    assert all(math.isfinite(x) for place in balls.places for x in place)


def test_a_head_on_collision_by_hand():
    # Masses 4 to 1: the heavy ball keeps 3/5 of its velocity, the light one leaves with 8/5.
    balls = Billiard([(0.3, 0.5), (0.65, 0.5)], [(0.02, 0.0), (0.0, 0.0)], (0.1, 0.05))
    balls.advance(10.0 + 5.0)  # they touch after a way of 0.2
    assert torch.allclose(
        torch.tensor(balls.places), torch.tensor([[0.5 + 0.06, 0.5], [0.65 + 0.16, 0.5]])
    )
    assert balls.velocities == [pytest.approx((0.012, 0.0)), pytest.approx((0.032, 0.0))]


def test_clips_hold_the_truth():
    batch = BALLS.sample_batch(4, 0, 12, num_frames=32)
    for reading, truth, caption in zip(
        BALLS.read(batch.frames), batch.truths, batch.captions, strict=True
    ):
        said = BALLS.parse(caption)
        assert said in (BallsSaid(len(truth.colors)), BallsSaid(len(truth.colors), truth.colors))
        assert all(RADII[0] <= radius <= RADII[1] for radius in truth.radii)
        for frame, balls in enumerate(reading.frames):
            assert {ball.color for ball in balls} == set(truth.colors)
            for ball in balls:
                index = truth.colors.index(ball.color)
                away = math.dist((ball.x, ball.y), truth.centres[frame, index].tolist())
                assert away * 64 < 0.15
                assert ball.radius == pytest.approx(truth.radii[index], rel=0.03)


@pytest.mark.parametrize("caption", ["a red ball and a red ball bounce", "a pink ball bounces"])
def test_captions_of_impossible_colors_are_named(caption):
    with pytest.raises(UsageError, match=caption):
        BALLS.parse(caption)


@pytest.mark.parametrize(("size", "noise", "least"), [(64, 0, 0.99), (64, 0.06, 0.95),
                                                      (32, 0, 0.99), (32, 0.06, 0.95)])  # fmt: skip
def test_true_clips_pass(size, noise, least):
    frames = BALLS.sample_batch(0, 0, 10, num_frames=40, size=size).frames
    frames += noise * torch.randn_like(frames)
    for name in ("count", "colors", "moving", "straight", "collisions"):
        assert mean(frames, name) >= least


def test_shuffled_and_frozen_clips_fail():
    frames = BALLS.sample_batch(0, 0, 8, num_frames=32).frames
    shuffled = frames[:, :, torch.randperm(32)]
    assert mean(shuffled, "straight") < 0.1
    assert mean(shuffled, "collisions") < 0.1
    assert mean(frames[:, :, :1].expand_as(frames), "moving") == 0


def test_balls_that_vanish_or_change_colour_fail():
    frames = painted(
        [[[0.2 + 0.01 * t, 0.3], [0.8 - 0.01 * t, 0.7]] for t in range(24)], (0.1,) * 2
    )
    assert mean(frames, "count") == mean(frames, "colors") == 1
    alone = painted([[[0.2 + 0.01 * t, 0.3]] for t in range(24)], (0.1,))
    frames[:, :, 18:] = alone[:, :, 18:]
    assert mean(frames, "count") == 0.75

    swapped = painted([[[0.2 + 0.01 * t, 0.3]] for t in range(24)], (0.1,))
    swapped[:, :, 18:] = swapped[:, [2, 1, 0], 18:]
    assert mean(swapped, "colors") == 0.75
    assert mean(swapped, "straight") == 1


def test_balls_that_turn_before_they_touch_or_do_not_turn_fail():
    apart = [[[0.2 + 0.02 * t, 0.3], [0.8 - 0.02 * t, 0.7]] for t in range(24)]
    assert mean(painted(apart, (0.1, 0.1)), "straight") == 1
    shy = [[[0.35 - 0.02 * abs(t - 8), 0.5], [0.65 + 0.02 * abs(t - 8), 0.5]] for t in range(16)]
    assert mean(painted(shy, (0.1, 0.1)), "collisions") == 0
    met = [[[min(0.2 + 0.03 * t, 0.4), 0.5], [max(0.8 - 0.03 * t, 0.6), 0.5]] for t in range(16)]
    assert mean(painted(met, (0.1, 0.1)), "collisions") == 0


def test_a_turn_without_contact_and_a_wall_that_takes_speed_fail():
    turn = [[[0.2 + 0.02 * t, 0.5] if t < 12 else [0.44, 0.5 + 0.02 * (t - 12)]] for t in range(24)]
    assert mean(painted(turn, (0.1,)), "collisions") == 0
    assert mean(painted(turn, (0.1,)), "straight") < 1
    keeps, loses = (
        [[[0.9 - abs(0.03 * (t - 12)) * (rest if t > 12 else 1), 0.5]] for t in range(24)]
        for rest in (1.0, 0.4)
    )
    assert mean(painted(keeps, (0.1,)), "collisions") == 1
    assert mean(painted(loses, (0.1,)), "collisions") == 0


def test_momentum_counts():
    radii = (0.08, 0.12)
    for masses, share in ((radii, 1), (radii[::-1], 0)):
        balls = Billiard([(0.3, 0.5), (0.7, 0.5)], [(0.02, 0.0), (-0.02, 0.0)], masses)
        ways = []
        for _ in range(12):
            ways.append(list(balls.places))
            balls.advance(1.0)
        assert mean(painted(ways, radii), "collisions") == share


def test_smears_are_no_balls():
    batch = BALLS.sample_batch(0, 0, 1, num_frames=4)
    truth = replace(batch.truths[0], centres=batch.truths[0].centres.clone())
    ghost = truth.centres[:, :1] * 0.8 + 0.1
    blurred = torch.maximum(
        BALLS.render(truth, 64),
        BALLS.render(replace(truth, centres=ghost.expand_as(truth.centres)), 64),
    )
    (reading,) = read_balls(blurred[None])
    assert reading.count != len(truth.colors)
