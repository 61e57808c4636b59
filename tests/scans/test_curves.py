"""Curves: small tables by hand, steps between neighbours, seeds."""

from itertools import pairwise

import pytest

from statefilm.scans import get_scan

BY_HAND = {
    ("diagonal", 3, 3): "00 01 10 20 11 02 12 21 22",
    ("diagonal", 2, 4): "00 01 10 11 02 03 12 13",
    ("diagonal", 3, 1): "00 10 20",
    ("antidiagonal", 3, 3): "02 01 12 22 11 00 10 21 20",
    ("antidiagonal", 2, 4): "03 02 13 12 01 00 11 10",
    ("spiral", 3, 3): "00 01 02 12 22 21 20 10 11",
    ("spiral", 2, 4): "00 01 02 03 13 12 11 10",
    ("spiral", 3, 1): "00 10 20",
    ("hilbert", 2, 2): "00 10 11 01",
    ("hilbert", 4, 4): "00 01 11 10 20 30 31 21 22 32 33 23 13 12 02 03",
    ("hilbert", 2, 4): "00 10 11 01 02 12 13 03",
    ("hilbert", 1, 3): "00 01 02",
}


def sites(name, height, width):
    return [(h, w) for _, h, w in get_scan(name, 1, height, width).positions.tolist()]


def steps(walk):
    return [(abs(a - c), abs(b - d)) for (a, b), (c, d) in pairwise(walk)]


@pytest.mark.parametrize(("name", "height", "width"), BY_HAND)
def test_curve_is_the_one_written_by_hand(name, height, width):
    walk = BY_HAND[name, height, width].split()
    assert sites(name, height, width) == [(int(s[0]), int(s[1])) for s in walk]


@pytest.mark.parametrize("height", range(1, 13))
@pytest.mark.parametrize("width", range(1, 13))
def test_consecutive_sites_are_neighbours(height, width):
    assert all(sum(step) == 1 for step in steps(sites("spiral", height, width)))
    for name in ("diagonal", "antidiagonal"):
        assert all(max(step) == 1 for step in steps(sites(name, height, width)))

    oblique = [step for step in steps(sites("hilbert", height, width)) if sum(step) != 1]
    longer_odd_shorter_even = max(height, width) % 2 == 1 and min(height, width) % 2 == 0
    assert oblique in ([], [(1, 1)] if longer_odd_shorter_even else [])


@pytest.mark.parametrize("size", [2, 4, 8, 16])
def test_hilbert_fills_each_quadrant_before_the_next(size):
    walk = sites("hilbert", size, size)
    for part in (size, size // 2):
        blocks = [(h // part, w // part) for h, w in walk]
        entered = sum(a != b for a, b in pairwise(blocks)) + 1
        assert entered == (size // part) ** 2


def test_curves_walk_frame_by_frame():
    one = get_scan("hilbert", 1, 3, 4).positions
    three = get_scan("hilbert", 3, 3, 4).positions.unflatten(0, (3, 12))
    for t in range(3):
        assert three[t, :, 0].eq(t).all()
        assert three[t, :, 1:].equal(one[:, 1:])


def test_random_depends_on_its_seed_alone():
    assert sites("random", 4, 4) == sites("random:0", 4, 4)
    assert sites("random:7", 4, 4) == sites("random:7", 4, 4)
    assert sites("random:7", 4, 4) != sites("random:8", 4, 4)


def test_random_is_the_same_in_every_version():
    # Sites ordered by the first nine draws of Python's Random(7), whose sequence is promised.
    assert [3 * h + w for h, w in sites("random:7", 3, 3)] == [8, 6, 3, 1, 0, 5, 7, 4, 2]
