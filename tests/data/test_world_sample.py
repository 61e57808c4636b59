"""Samples of the world: purity, truth of the captions, splits and mixes."""

from collections import Counter

import pytest
import torch

from statefilm.data.world import (
    CLIP_MIX,
    FAMILIES,
    IMAGE_MIX,
    Description,
    Group,
    canonical,
    compose,
    is_heldout,
    parse,
    render,
    sample_batch,
    tracks,
)
from statefilm.data.world.sample import MOVING
from statefilm.data.world.scene import COLORS, EXTENTS, INVERSE, MOTIONS, RADIUS, RELATIONS, SHAPES
from statefilm.data.world.splits import (
    HELDOUT_PAIRS,
    HELDOUT_TRIPLES,
    SPEEDS,
    scene_is_heldout,
    speed_is_heldout,
)

EVERY_FAMILY = dict.fromkeys(FAMILIES, 1.0)


def geneval_relations(a, b):
    """Every relation of a to b under GenEval's rule: 0.1 of the sizes, 0.5 of the direction."""
    boxes = []
    for thing in (a, b):
        side, top, bottom = (part * RADIUS[thing.size] for part in EXTENTS[thing.shape])
        centre = (thing.x, thing.y + (bottom - top) / 2)
        boxes.append((*centre, 2 * side, top + bottom))
    offsets = [boxes[0][i] - boxes[1][i] for i in range(2)]
    slack = [0.1 * (boxes[0][i + 2] + boxes[1][i + 2]) for i in range(2)]
    dx, dy = (
        max(abs(o) - s, 0) * (1 if o > 0 else -1) for o, s in zip(offsets, slack, strict=True)
    )
    norm = (offsets[0] ** 2 + offsets[1] ** 2) ** 0.5
    found = {"left of": dx < -0.5 * norm, "right of": dx > 0.5 * norm,
             "above": dy < -0.5 * norm, "below": dy > 0.5 * norm}  # fmt: skip
    return {relation for relation, holds in found.items() if holds}


@pytest.mark.parametrize("num_frames", [1, 5])
@pytest.mark.parametrize("split", ["train", "heldout", "all"])
def test_a_sample_is_the_same_alone_and_in_a_batch(num_frames, split):
    options = {"num_frames": num_frames, "split": split, "size": 32}
    batch = sample_batch(5, 100, 8, **options)
    for index in range(8):
        alone = sample_batch(5, 100 + index, 1, **options)
        assert torch.equal(alone.frames[0], batch.frames[index])
        assert alone.captions == [batch.captions[index]]
        assert alone.scenes == [batch.scenes[index]]
        assert alone.descriptions == [batch.descriptions[index]]


def test_samples_differ_between_indices_and_seeds():
    scenes = sample_batch(0, 0, 64).scenes + sample_batch(1, 0, 64).scenes
    assert len(set(map(repr, scenes))) == 128


def test_size_and_frames_only_change_the_rendering():
    small = sample_batch(2, 0, 32, size=64, num_frames=5)
    large = sample_batch(2, 0, 32, size=128, num_frames=9)
    assert (small.scenes, small.captions) == (large.scenes, large.captions)
    assert torch.equal(small.frames, render(small.scenes, num_frames=5))
    assert small.frames.shape == (32, 3, 5, 64, 64)
    assert large.frames.shape == (32, 3, 9, 128, 128)


def test_three_shapes_below_64_pixels():
    shapes = {t.shape for s in sample_batch(0, 0, 200, size=32).scenes for t in s.things}
    assert shapes == {"circle", "square", "triangle"}
    assert {t.shape for s in sample_batch(0, 0, 200).scenes for t in s.things} == set(SHAPES)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_scene_is_what_the_caption_says_and_nothing_else(family):
    batch = sample_batch(7, 0, 40, mix={family: 1}, split="all")
    for caption, scene, description in zip(
        batch.captions, batch.scenes, batch.descriptions, strict=True
    ):
        assert parse(caption) == description
        assert scene.background == (description.background or "black")
        things = list(scene.things)
        for group in description.groups:
            members, things = things[: group.count], things[group.count :]
            assert len(members) == group.count
            for thing in members:
                assert thing.shape == group.shape
                assert group.color in (None, thing.color)
                assert group.size in (None, thing.size)
                assert thing.motion.kinds == (group.motion or ("still",))
                assert thing.motion.becomes == group.becomes
        assert not things
        if description.relation is not None:
            assert geneval_relations(*scene.things) == {description.relation}


def test_what_a_caption_leaves_open_is_random():
    things = [s.things[0] for s in sample_batch(0, 0, 400, mix={"single": 1}, split="all").scenes]
    assert {t.color for t in things} == set(COLORS)
    assert {t.size for t in things} == set(RADIUS)
    for low, high in [(0.0, 0.3), (0.3, 0.7), (0.7, 1.0)]:
        assert any(low <= t.x < high for t in things)
        assert any(low <= t.y < high for t in things)


def test_default_mixes_lean_towards_the_hard_families():
    assert sum(IMAGE_MIX.values()) == pytest.approx(1)
    assert sum(CLIP_MIX.values()) == pytest.approx(1)
    assert IMAGE_MIX["position"] + IMAGE_MIX["color_attr"] + IMAGE_MIX["counting"] > 0.5
    names = Counter(len(s.things) for s in sample_batch(0, 0, 600).scenes)
    assert names[2] > names[1] > names[4] > 0
    background = Counter(s.background for s in sample_batch(0, 0, 600).scenes)
    assert background["black"] > 550


def test_clips_move_in_all_ways_equally_and_visibly():
    scenes = sample_batch(0, 0, 800, num_frames=5, mix={"motion": 1}, size=32).scenes
    kinds = Counter(scene.things[0].motion.kind for scene in scenes)
    assert set(kinds) == set(MOVING)
    assert min(kinds.values()) > 60
    for num_frames in (5, 9, 17):
        state = tracks(scenes[:100], num_frames)
        x, y, radius = (v[:, 0] for v in (state.x, state.y, state.radius))
        moved = torch.hypot(x - x[:, :1], y - y[:, :1]).amax(1)
        grown = (radius / radius[:, :1]).log().abs().amax(1)
        assert float(torch.maximum(moved, grown).min()) >= SPEEDS[0] - 1e-6
    default = sample_batch(0, 0, 400, num_frames=5, size=32).scenes
    single = sum(len(s.things) == 1 and s.things[0].motion.kind != "still" for s in default)
    assert single > 280
    moving = [sum(t.motion.kind != "still" for t in s.things) for s in default if s.things[1:]]
    assert set(moving) == {1}


def test_held_out_sets_have_their_sizes():
    assert len(HELDOUT_PAIRS) == 3
    assert len(HELDOUT_TRIPLES) == 6
    assert {(b, INVERSE[r], a) for a, r, b in HELDOUT_TRIPLES} == HELDOUT_TRIPLES
    for part, values in enumerate((SHAPES, RELATIONS, SHAPES)):
        for value in values:  # each part is also seen in training
            assert sum(triple[part] == value for triple in HELDOUT_TRIPLES) < 8


@pytest.mark.parametrize("num_frames", [1, 2])
def test_training_never_sees_what_is_held_out(num_frames):
    batch = sample_batch(0, 0, 1200, num_frames=num_frames, size=32, mix=EVERY_FAMILY)
    for scene, description in zip(batch.scenes, batch.descriptions, strict=True):
        assert not is_heldout(description)
        assert not scene_is_heldout(scene)
        for thing in scene.things:
            assert (thing.color, thing.shape) not in HELDOUT_PAIRS
            assert not any(0.40 <= phase.speed < 0.44 for phase in thing.motion.phases)
    said = [(d.groups[0].shape, d.relation, d.groups[-1].shape) for d in batch.descriptions]
    assert not HELDOUT_TRIPLES & set(said)


def test_training_at_64_pixels_never_sees_what_is_held_out():
    batch = sample_batch(0, 0, 600)
    assert not any(map(is_heldout, batch.descriptions))
    assert not any(map(scene_is_heldout, batch.scenes))


@pytest.mark.parametrize("num_frames", [1, 2])
def test_the_held_out_split_draws_only_that(num_frames):
    batch = sample_batch(0, 0, 300, num_frames=num_frames, split="heldout")
    ways = set()
    for scene, description in zip(batch.scenes, batch.descriptions, strict=True):
        first, last = description.groups[0].shape, description.groups[-1].shape
        held_out = set()
        for thing in scene.things:
            if {(c, thing.shape) for c in (thing.color, thing.motion.becomes)} & HELDOUT_PAIRS:
                held_out.add("pair")
            if any(map(speed_is_heldout, (phase.speed for phase in thing.motion.phases))):
                held_out.add("speed")
        if (first, description.relation, last) in HELDOUT_TRIPLES:
            held_out.add("triple")
        assert held_out
        ways |= held_out
    assert ways == {"pair", "triple" if num_frames == 1 else "speed"}


PAIRS = {"two": 1, "color_attr": 1}
MOVING_PAIRS = {"motion_two": 1}


@pytest.mark.parametrize(("num_frames", "mix"), [(1, PAIRS), (3, MOVING_PAIRS)])
def test_in_reading_order_the_first_named_begins_further_left_and_up(num_frames, mix):
    options = {"num_frames": num_frames, "mix": mix, "split": "all"}
    drawn, told = (
        sample_batch(3, 0, 200, **options),
        sample_batch(3, 0, 200, **options, order="reading"),
    )
    turned = 0
    for scene, before, description in zip(
        told.scenes, drawn.scenes, told.descriptions, strict=True
    ):
        first, second = scene.things
        dx, dy = second.x - first.x, second.y - first.y
        assert max((dx, dy), key=abs) >= 0
        assert {first, second} == set(before.things)
        assert tuple(group.shape for group in description.groups) == (first.shape, second.shape)
        turned += scene != before
    assert 60 < turned < 140
    assert [parse(caption) for caption in told.captions] == told.descriptions


def test_reading_order_leaves_other_captions_as_they_are():
    mix = {name: 1.0 for name in FAMILIES if name not in (*PAIRS, *MOVING_PAIRS, "background")}
    drawn, told = (
        sample_batch(3, 0, 200, mix=mix),
        sample_batch(3, 0, 200, mix=mix, order="reading"),
    )
    assert (drawn.scenes, drawn.captions) == (told.scenes, told.captions)


def test_training_in_reading_order_tells_of_no_held_out_relation():
    mix = {"two": 1}
    told = sample_batch(3, 0, 600, mix=mix, order="reading").scenes
    shapes = Counter(tuple(thing.shape for thing in scene.things) for scene in told)
    assert len(shapes) == 12
    for first, second in (scene.things for scene in told):
        relations = geneval_relations(first, second)
        assert not HELDOUT_TRIPLES & {(first.shape, one, second.shape) for one in relations}


@pytest.mark.parametrize("motion", MOTIONS)
def test_compose_makes_any_description_of_a_moving_thing_true(motion):
    description = Description((Group("triangle", "blue", "large", motion=("grow", motion)),))
    scene = compose(description, 4)
    assert compose(description, 4) == scene
    assert compose(description, 4, 1) != scene
    assert scene.things[0].motion.kinds == ("grow", motion)


def test_compose_says_when_there_is_no_room():
    crowd = Description((Group("triangle", size="large", count=4),) * 4)
    with pytest.raises(ValueError, match="no room") as caught:
        compose(crowd, 0)
    assert canonical(crowd) in str(caught.value)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"split": "test"}, "'test'"),
        ({"mix": {"singel": 1}}, "'singel'"),
        ({"order": "alphabetic"}, "'alphabetic'"),
        ({"mix": {"single": -1}}, "-1"),
        ({"mix": {"single": 0}}, "no positive weight"),
        ({"mix": {"single": float("nan")}}, "nan"),
        ({"count": 0}, "count 0"),
        ({"size": 31}, "size 31"),
        ({"num_frames": 0}, "num_frames 0"),
    ],
)
def test_bad_options_are_named(options, named):
    with pytest.raises(ValueError, match=named):
        sample_batch(0, 0, **{"count": 2, **options})
