"""Buckets: sizes near an area, entries where least of them is lost; plans that see every entry."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statefilm.data.files import (
    RATIOS,
    Assignment,
    Bucket,
    BucketPlan,
    Entry,
    assign,
    choose_bucket,
    make_buckets,
)
from statefilm.errors import UsageError
from statefilm.training.parallel import Ranks


def image(width, height):
    return Entry(path="a.png", kind="image", width=width, height=height)


def clip(frames, fps=24, width=64, height=64):
    return Entry(path="a.mp4", kind="video", width=width, height=height, frames=frames, fps=fps)


@given(side=st.integers(4, 64), step=st.sampled_from([1, 8, 16, (16, 32)]))
def test_sizes_are_steps_near_the_area(side, step):
    area = (16 * side) ** 2
    buckets = make_buckets(area, step, lengths=(1, 5))
    high, wide = (step, step) if isinstance(step, int) else step
    assert list(buckets) == sorted(set(buckets))
    assert {bucket.num_frames for bucket in buckets} == {1, 5}
    for bucket in buckets:
        assert bucket.height % high == bucket.width % wide == 0
        if side * 16 >= 4 * wide:
            assert 0.5 < bucket.height * bucket.width / area < 2


def test_the_buckets_of_256_pixels():
    sizes = [str(bucket) for bucket in make_buckets(256 * 256, 32, ratios=(1, 4 / 3, 16 / 9))]
    assert sizes == ["352x192", "288x224", "256x256"] or sizes == ["320x192", "288x224", "256x256"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"area": 100, "step": 16}, "area 100 is less than"),
        ({"area": 4096, "step": 0}, "not positive"),
        ({"area": 4096, "step": 8, "lengths": (1, 8)}, "length 8 is not 1 \\+ k \\* 4"),
        ({"area": 4096, "step": 8, "ratios": (0,)}, "ratio 0"),
    ],
)
def test_bad_buckets_are_refused(options, why):
    with pytest.raises(UsageError, match=why):
        make_buckets(**options)


@given(width=st.integers(200, 3000), height=st.integers(200, 3000))
def test_no_other_bucket_crops_less(width, height):
    buckets = make_buckets(256 * 256, 16)
    entry = image(width, height)
    try:
        chosen = choose_bucket(entry, buckets)
    except UsageError:
        assert all(max(b.height / height, b.width / width) > 1.5 for b in buckets)
        return

    def kept(bucket):
        scale = max(bucket.height / height, bucket.width / width)
        return bucket.height * bucket.width / (scale**2 * width * height), scale

    share, scale = kept(chosen)
    assert scale <= 1.5 and 0 < share <= 1 + 1e-9
    assert all(kept(b)[0] <= share + 1e-12 for b in buckets if kept(b)[1] <= 1.5)


def test_what_fits_no_bucket_is_dropped_with_the_reason():
    buckets = make_buckets(64 * 64, 8, ratios=(1,), lengths=(1, 5, 9))
    entries = [image(30, 90), clip(4), clip(8), clip(9), clip(300), clip(8, fps=6), image(64, 64)]
    found = assign(entries, buckets, fps=12)
    square, short, long = (Bucket(n, 64, 64) for n in (1, 5, 9))
    assert found.members == {square: (6,), long: (4,), short: (3,)}
    assert found.dropped == {
        0: "30 x 90 would be enlarged 2.13 times, more than 1.5",
        1: "gives 2 frames, less than 5",
        2: "gives 4 frames, less than 5",
        5: "6 frames a second are less than 12",
    }
    images = make_buckets(64 * 64, 8, ratios=(1,))
    assert assign([clip(300)], images).dropped == {0: "no bucket is for clips"}
    assert assign([image(30, 90)], images, max_upscale=3).dropped == {}
    assert assign([clip(300), image(64, 64)], images, stills=True).members == {square: (0, 1)}
    clips = make_buckets(64 * 64, 8, ratios=(1,), lengths=(5,))
    assert assign([clip(300)], clips, stills=True).dropped == {0: "no bucket is for images"}


SMALL, LARGE = Bucket(1, 8, 8), Bucket(1, 16, 16)
HELD = Assignment({SMALL: tuple(range(5)), LARGE: tuple(range(5, 23))}, {})


def epoch(plan):
    return [plan.entries(step) for step in range(plan.steps_per_epoch)]


@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    batch_size=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
def test_every_entry_is_seen_equally_often_and_all_in_the_first_epoch(counts, batch_size, seed):
    members, first = {}, 0
    for size, count in enumerate(counts, start=1):
        members[Bucket(1, 8 * size, 8)] = tuple(range(first, first + count))
        first += count
    plan = BucketPlan(Assignment(members, {}), batch_size, seed)
    assert {entry for entries in epoch(plan) for entry in entries} == set(range(first))
    seen = Counter()
    for step in range(10 * plan.steps_per_epoch):
        assert set(plan.entries(step)) <= set(members[plan.bucket(step)])
        seen.update(plan.entries(step))
        # Batches are whole, so that a small bucket may be ahead by one batch.
        ahead = 1 + max(-(-batch_size // min(counts)), 2)
        if step % plan.steps_per_epoch == 0:
            assert max(seen.values()) - min(seen.get(n, 0) for n in range(first)) <= ahead


def test_a_small_bucket_is_not_overdrawn():
    pair, many = Bucket(1, 8, 8), Bucket(1, 16, 16)
    plan = BucketPlan(Assignment({pair: (0, 1), many: tuple(range(2, 322))}, {}), 32, 0)
    drawn = [plan.bucket(step) for step in range(16 * 10 + 1)]
    assert drawn.count(pair) == 1


def test_without_entries_there_is_no_plan():
    with pytest.raises(UsageError, match="no entry fits a bucket"):
        BucketPlan(Assignment({}, {}), 4, 0)


def test_a_plan_is_a_function_of_seed_and_step():
    plan, again, other = BucketPlan(HELD, 4, 7), BucketPlan(HELD, 4, 7), BucketPlan(HELD, 4, 8)
    there = [again.entries(step) for step in (40, 3, 11)]
    assert [plan.entries(step) for step in (40, 3, 11)] == there
    assert epoch(plan) != epoch(other)
    later = [plan.entries(plan.steps_per_epoch + step) for step in range(plan.steps_per_epoch)]
    assert sorted(map(sorted, epoch(plan))) != sorted(map(sorted, later))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_ranks_share_the_same_batches(size):
    plan = BucketPlan(HELD, 4, 0)
    for step in range(2 * plan.steps_per_epoch):
        shared = []
        for rank in range(size):
            start, count = Ranks(rank, size).share(step * 4, 4)
            shared += [BucketPlan(HELD, 4, 0).entry(i) for i in range(start, start + count)]
        assert shared == plan.entries(step)


def test_steps_of_large_buckets_come_in_proportion():
    plan = BucketPlan(HELD, 2, 3)
    counts = Counter(plan.bucket(step) for step in range(115))  # ten times 23 entries
    assert counts == {SMALL: 25, LARGE: 90}
    assert math.isclose(
        sum(RATIOS[i] * RATIOS[-1 - i] for i in range(len(RATIOS))), 11, rel_tol=0.1
    )
