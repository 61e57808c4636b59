"""Mazes: exact views, the way and the map that the reader finds, and verdicts on false clips."""

import math
from dataclasses import replace
from random import Random

import pytest
import torch

from statefilm.data.worlds import WORLDS
from statefilm.data.worlds.maze import MazeSaid, Plan
from statefilm.data.worlds.maze.plan import FREE, NODES, SIDE, carve, walk
from statefilm.data.worlds.maze.raycast import CEILING, FLOOR, WALL_HEIGHT, backdrop, view
from statefilm.data.worlds.maze.tracks import nearest_path, steady_path
from statefilm.data.worlds.palette import COLOR_NAMES, COLORS

MAZE = WORLDS["maze"]


def mean(frames, name):
    values = [v[name] for v in MAZE.verdicts(MAZE.read(frames)) if not math.isnan(v[name])]
    return sum(values) / len(values)


@pytest.mark.parametrize("key", range(5))
def test_all_places_of_a_maze_are_joined(key):
    plan = carve(Random(key))
    rim = [*plan.blocks[0], *plan.blocks[-1], *(row[0] for row in plan.blocks)]
    assert min([*rim, *(row[-1] for row in plan.blocks)]) > FREE
    reached, front = set(), [(1, 1)]
    while front:
        x, y = front.pop()
        if plan.blocks[y][x] == FREE and (x, y) not in reached:
            reached.add((x, y))
            front += [(x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)]
    assert {(2 * x + 1, 2 * y + 1) for x in range(NODES) for y in range(NODES)} <= reached
    blocks = [block for row in plan.blocks for block in row if block != FREE]
    assert max(set(blocks), key=blocks.count) == COLOR_NAMES.index(plan.main)


def test_a_walk_is_smooth_stays_in_corridors_and_comes_back():
    plan = carve(Random(1))
    poses = torch.tensor(walk(plan, Random(2), 400), dtype=torch.float64)
    assert all(plan.blocks[int(y)][int(x)] == FREE for x, y, _ in poses.tolist())
    steps = poses.diff(dim=0)
    ways, turns = steps[:, :2].norm(dim=-1), steps[:, 2].abs()
    assert float(ways.max()) <= 0.25 + 1e-9
    assert float(turns.max()) <= math.radians(15) + 1e-9
    assert ((ways > 0.2) ^ (turns > 0.2)).all()
    forward = torch.stack([poses[:-1, 2].cos(), poses[:-1, 2].sin()], dim=-1)
    assert torch.allclose((steps[:, :2] * forward).sum(-1), ways, atol=1e-9)
    cells = [(int(x), int(y)) for x, y, _ in poses.tolist()]
    assert len(set(cells)) < 60


def test_a_wall_ahead_has_the_height_and_colour_of_its_distance():
    red = COLOR_NAMES.index("red")
    room = Plan("red", tuple(tuple(FREE if 0 < x < 8 and 0 < y < 8 else red for x in range(SIDE))
                             for y in range(SIDE)))  # fmt: skip
    frames = view(room, [(1.5, 4.5, 0.0), (6.0, 4.5, 0.0)], 64)
    for frame, distance in zip(frames.unbind(1), (6.5, 2.0), strict=True):
        column = (frame[:, :, 31].T + 1) / 2
        free = (column - backdrop(64)).abs().sum(-1) < 1e-6
        height = 32 * WALL_HEIGHT / distance
        assert int((~free).sum()) == 2 * math.ceil(height / 2)
        light = 1 / (1 + 0.12 * distance)
        ink = torch.tensor(COLORS["red"]) / 255 * light
        assert torch.allclose(column[32], ink, atol=1e-5)
    assert torch.allclose(frames, frames.flip(-1), atol=1e-5)  # seen from the middle of the room


def test_the_backdrop_is_brightest_where_it_is_near():
    rows = backdrop(64).sum(-1)
    assert (rows[:32].diff() < 0).all()
    assert (rows[32:].diff() > 0).all()
    assert float(rows[0]) < sum(CEILING) / 255 < float(rows[-1]) < sum(FLOOR) / 255


@pytest.mark.parametrize("size", [32, 64])
def test_the_way_and_the_map_are_the_truth(size):
    batch = MAZE.sample_batch(5, 0, 3, num_frames=96, size=size)
    for reading, truth in zip(MAZE.read(batch.frames), batch.truths, strict=True):
        turn = round(float(truth.poses[0, 2] - reading.poses[0, 2]) / (math.pi / 2))
        assert torch.allclose(
            reading.poses[:, 2] + turn * math.pi / 2, truth.poses[:, 2], atol=0.06
        )
        rotated = _quarter_turned(reading.poses[:, :2], turn)
        offset = (truth.poses[:, :2] - rotated).mean(0).round()
        assert float((rotated + offset - truth.poses[:, :2]).abs().max()) < 0.2
        right = total = 0
        for sight in reading.sights:
            for (x, y), state in sight.items():
                cell = _quarter_turned(torch.tensor([[x + 0.5, y + 0.5]]), turn)[0] + offset
                column, row = (math.floor(c) for c in cell.tolist())
                right += truth.plan.blocks[row][column] == state
                total += 1
        assert right > 0.98 * total
        assert total > 96 * 4
        assert reading.walls == truth.plan.main


def _quarter_turned(points, turns):
    cos, sin = round(math.cos(turns * math.pi / 2)), round(math.sin(turns * math.pi / 2))
    x, y = points.unbind(-1)
    return torch.stack([x * cos - y * sin, x * sin + y * cos], dim=-1)


def test_captions_name_the_walls():
    batch = MAZE.sample_batch(0, 0, 20, num_frames=1, size=32)
    said = [MAZE.parse(caption) for caption in batch.captions]
    assert said == [MazeSaid(truth.plan.main) for truth in batch.truths]


@pytest.mark.parametrize(("size", "noise", "least"), [(64, 0, 0.99), (64, 0.06, 0.95),
                                                      (32, 0, 0.97), (32, 0.06, 0.9)])  # fmt: skip
def test_true_clips_pass(size, noise, least):
    frames = MAZE.sample_batch(0, 0, 6, num_frames=80, size=size).frames
    frames += noise * torch.randn_like(frames)
    for name in ("views", "steps", "walls"):
        assert mean(frames, name) >= least


def test_shuffled_and_frozen_clips_fail():
    frames = MAZE.sample_batch(0, 0, 4, num_frames=64).frames
    shuffled = frames[:, :, torch.randperm(64)]
    assert mean(shuffled, "views") == 1
    assert mean(shuffled, "steps") < 0.1
    assert mean(shuffled, "walls") < 0.5
    frozen = MAZE.verdicts(MAZE.read(frames[:, :, :1].expand_as(frames)))
    assert all(verdict["steps"] == 0 and math.isnan(verdict["walls"]) for verdict in frozen)


def test_a_walk_backwards_fails_its_steps_but_keeps_its_walls():
    frames = MAZE.sample_batch(0, 0, 4, num_frames=96).frames.flip(2)
    assert mean(frames, "steps") < 0.6
    assert mean(frames, "walls") > 0.99


def test_two_mazes_in_one_clip_fail():
    frames = MAZE.sample_batch(0, 0, 6, num_frames=160).frames
    spliced = torch.cat([frames[:, :, :80], frames.roll(1, 0)[:, :, 80:]], dim=2)
    assert mean(spliced, "views") == 1
    assert mean(spliced, "steps") < 1
    assert mean(spliced, "walls") < 0.8


def test_a_maze_that_forgets_its_colours_fails():
    batch = MAZE.sample_batch(0, 0, 4, num_frames=128)
    forgetful = []
    for index, truth in enumerate(batch.truths):
        random = Random(index)
        blocks = tuple(
            tuple(b if b == FREE else random.randrange(len(COLOR_NAMES)) for b in row)
            for row in truth.plan.blocks
        )
        later = MAZE.render(replace(truth, plan=Plan(truth.plan.main, blocks)), 64)
        forgetful.append(torch.cat([batch.frames[index, :, :64], later[:, 64:]], dim=1))
    forgetful = torch.stack(forgetful)
    assert mean(batch.frames, "walls") > 0.99
    assert mean(forgetful, "walls") < 0.7
    assert mean(forgetful, "steps") > 0.97


def test_views_need_floor_and_ceiling():
    frames = MAZE.sample_batch(0, 0, 2, num_frames=12).frames
    assert mean(frames.flip(-2), "views") < 0.1  # upside down
    raised = frames.roll(8, -2)
    assert mean(raised, "views") < 0.2


def test_paths_are_followed_through_wrong_and_missing_values():
    way = torch.cat([torch.zeros(10), torch.arange(40) * 0.25, torch.full((14,), 9.75)]).double()
    means = torch.polar(torch.full_like(way, 0.9), 2 * math.pi * way)
    assert torch.allclose(nearest_path(means), way, atol=1e-6)
    means[30:33] = 0
    means[40] = -means[40]
    means[20] *= 1j
    assert torch.allclose(steady_path(means[None])[0], way, atol=1e-3)
