"""What holds for every world: purity, truth of captions and labels, and errors."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from statefilm.data.worlds import WORLDS, find_world, vocabulary
from statefilm.data.worlds.captions import read_count, read_list, write_count, write_list
from statefilm.data.worlds.palette import COLORS, levels, nearest_color
from statefilm.data.worlds.regions import connected_regions
from statefilm.errors import UsageError


@pytest.fixture(params=WORLDS)
def world(request):
    return WORLDS[request.param]


@settings(max_examples=6)
@given(st.sampled_from(sorted(WORLDS)), st.integers(0, 9), st.integers(1, 9), st.integers(0, 3))
def test_a_sample_is_a_function_of_seed_and_index(name, index, num_frames, seed):
    world = WORLDS[name]
    batch = world.sample_batch(seed, 0, 10, size=32, num_frames=9)
    alone = world.sample_batch(seed, index, 1, size=32, num_frames=num_frames)
    assert torch.equal(alone.frames[0], batch.frames[index, :, :num_frames])
    assert alone.captions == [batch.captions[index]]
    assert torch.equal(alone.labels, batch.labels[index : index + 1])


def test_a_batch_has_its_shapes_and_range(world):
    batch = world.sample_batch(0, 0, 3, size=48, num_frames=5)
    assert batch.frames.shape == (3, 3, 5, 48, 48)
    assert batch.frames.dtype == torch.float32
    assert -1 <= float(batch.frames.min()) < float(batch.frames.max()) <= 1
    assert len(batch.captions) == len(batch.truths) == 3
    assert batch.labels.dtype == torch.int64


def test_seeds_indices_and_splits_differ(world):
    options = {"size": 32, "num_frames": 2}
    train, test = (world.sample_batch(0, 0, 20, split=s, **options) for s in ("train", "test"))
    other = world.sample_batch(1, 0, 20, **options)
    clips = torch.cat([train.frames, test.frames, other.frames]).flatten(1)
    assert len(clips.unique(dim=0)) == 60


def test_every_class_is_drawn_and_every_word_is_known(world):
    batch = world.sample_batch(0, 0, 150, size=32, num_frames=1)
    assert set(batch.labels.tolist()) == set(range(world.num_classes))
    words = {w for caption in batch.captions for w in re.findall(r"\w+|,", caption)}
    assert words <= set(world.words) <= set(vocabulary())


def test_labels_are_read_back(world):
    batch = world.sample_batch(2, 0, 8, num_frames=48)
    readings = world.read(batch.frames)
    assert [world.label_of(reading) for reading in readings] == batch.labels.tolist()
    (nothing,) = world.read(torch.zeros(1, 3, 4, 64, 64))
    assert world.label_of(nothing) is None


@pytest.mark.parametrize("num_frames", [1, 2, 3])
def test_short_clips_have_verdicts(world, num_frames):
    batch = world.sample_batch(0, 0, 2, num_frames=num_frames)
    for verdict in world.verdicts(world.read(batch.frames)):
        assert all(0 <= share <= 1 or math.isnan(share) for share in verdict.values())


def test_noise_and_darkness_are_nothing(world):
    clips = torch.stack([torch.rand(3, 12, 64, 64) * 2 - 1, torch.full((3, 12, 64, 64), -1.0)])
    for verdict in world.verdicts(world.read(clips)):
        assert all(share == 0 or math.isnan(share) for share in verdict.values())
        assert 0 in verdict.values()


def test_a_clip_is_read_by_itself(world):
    frames = world.sample_batch(0, 0, 3, num_frames=8).frames
    together = world.verdicts(world.read(frames))
    alone = [world.verdicts(world.read(clip[None]))[0] for clip in frames]
    assert repr(together) == repr(alone)


@pytest.mark.parametrize("caption", ["", "a cat", "two", "zero balls bounce", "a ball bounces"])
def test_captions_outside_the_grammar_are_named(world, caption):
    with pytest.raises(UsageError, match=re.escape(f"{caption!r}: valid is such as")):
        world.parse(caption)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"split": "trian"}, "did you mean 'train'"),
        ({"count": 0}, "count 0"),
        ({"num_frames": 0}, "num_frames 0"),
        ({"num_frames": 2.5}, "num_frames must be a whole number, got 2.5"),
        ({"size": 30}, "size 30 is outside 32 to 256"),
        ({"size": 33}, "size 33 is not a multiple of 2"),
    ],
)
def test_bad_options_are_named(world, options, named):
    with pytest.raises(UsageError, match=named):
        world.sample_batch(0, 0, **{"count": 1, **options})


@pytest.mark.parametrize(
    ("frames", "named"),
    [
        (torch.zeros(3, 4, 64, 64), r"torch.float32 \[3, 4, 64, 64\]"),
        (torch.zeros(1, 3, 4, 64, 64, dtype=torch.uint8), "torch.uint8"),
        (torch.zeros(1, 3, 4, 64, 48), r"\[1, 3, 4, 64, 48\]"),
        (torch.zeros(1, 3, 4, 16, 16), "16 pixels"),
        (torch.full((1, 3, 4, 64, 64), math.nan), "not finite"),
    ],
)
def test_unreadable_frames_are_named(world, frames, named):
    with pytest.raises(UsageError, match=named):
        world.read(frames)


def test_unknown_worlds_are_named():
    assert find_world("maze") is WORLDS["maze"]
    with pytest.raises(UsageError, match="unknown world 'bals': did you mean 'balls'"):
        find_world("bals")


@given(st.lists(st.sampled_from(["red ball", "blue three", "x"]), min_size=1, max_size=5))
def test_lists_are_read_back(things):
    assert read_list(write_list(things)) == things


@given(st.integers(1, 4))
def test_counts_are_read_back(count):
    assert read_count(write_count(count, "ball"), "ball", 4) == count
    assert read_count(write_count(count, "ball"), "digit", 4) is None


def test_colors_are_told_in_any_light():
    inks = levels(list(COLORS.values()))
    for light in (0.2, 0.6, 1.0):
        index, cosine = nearest_color(inks * light)
        assert index.tolist() == list(range(len(COLORS)))
        assert torch.allclose(cosine, torch.ones(len(COLORS)))
    directions = torch.nn.functional.normalize(inks, dim=-1)
    angles = (directions @ directions.T - 2 * torch.eye(len(COLORS))).max().acos()
    assert math.degrees(float(angles)) > 20


@given(st.lists(st.integers(-1, 1), min_size=24, max_size=24))
def test_connected_regions_are_those_of_a_flood(values):
    labels = torch.tensor(values).view(2, 3, 4)
    expected = torch.full_like(labels, -1)
    number = 0
    for n, y, x in (labels >= 0).nonzero().tolist():
        if expected[n, y, x] >= 0:
            continue
        front = [(y, x)]
        while front:
            row, column = front.pop()
            if not (0 <= row < 3 and 0 <= column < 4) or expected[n, row, column] >= 0:
                continue
            if labels[n, row, column] == labels[n, y, x]:
                expected[n, row, column] = number
                sides = [(1, 0), (-1, 0), (0, 1), (0, -1)]
                front += [(row + dy, column + dx) for dy, dx in sides]
        number += 1
    assert torch.equal(connected_regions(labels), expected)
