"""Axis orders: tables written out by hand, the aliases, and what an image makes of them."""

import pytest
import torch

from statefilm.scans import ALIASES, AXIS_ORDERS, get_scan

# Two frames (0, 1) of two rows (a, b) and three columns (x, y, z), walked by hand.
WALKS = {
    "thw": "0ax 0ay 0az 0bx 0by 0bz 1ax 1ay 1az 1bx 1by 1bz",
    "twh": "0ax 0bx 0ay 0by 0az 0bz 1ax 1bx 1ay 1by 1az 1bz",
    "htw": "0ax 0ay 0az 1ax 1ay 1az 0bx 0by 0bz 1bx 1by 1bz",
    "hwt": "0ax 1ax 0ay 1ay 0az 1az 0bx 1bx 0by 1by 0bz 1bz",
    "wth": "0ax 0bx 1ax 1bx 0ay 0by 1ay 1by 0az 0bz 1az 1bz",
    "wht": "0ax 1ax 0bx 1bx 0ay 1ay 0by 1by 0az 1az 0bz 1bz",
}
WALKS |= {
    "H": WALKS["thw"],
    "HT": WALKS["thw"],
    "V": WALKS["twh"],
    "VT": WALKS["twh"],
    "TH": WALKS["hwt"],
    "TV": WALKS["wht"],
}


def by_hand(walk):
    return [["01".index(s[0]), "ab".index(s[1]), "xyz".index(s[2])] for s in walk.split()]


@pytest.mark.parametrize("name", WALKS)
def test_walk_is_the_one_written_by_hand(name):
    scan = get_scan(name, 2, 2, 3)
    grid = torch.arange(12).reshape(1, 2, 2, 3, 1)
    expected = [6 * t + 3 * h + w for t, h, w in by_hand(WALKS[name])]
    assert scan.positions.tolist() == by_hand(WALKS[name])
    assert scan.apply(grid).flatten().tolist() == expected


def test_every_order_and_alias_is_written_out():
    assert set(WALKS) == {*AXIS_ORDERS, *ALIASES}


@pytest.mark.parametrize("name", [*AXIS_ORDERS, *ALIASES])
def test_image_takes_the_spatial_scan_that_the_order_implies(name):
    order = ALIASES.get(name, name)
    rows_first = order.index("h") < order.index("w")
    image = torch.randn(2, 1, 3, 4, 5)
    expected = image[:, 0] if rows_first else image[:, 0].transpose(1, 2)
    assert torch.equal(get_scan(name, 1, 3, 4).apply(image), expected.flatten(1, 2))


@pytest.mark.parametrize("name", AXIS_ORDERS)
def test_inverse_of_an_axis_order_moves_no_data(name):
    sequence = torch.randn(2, 24, 5)
    grid = get_scan(name, 2, 3, 4).invert(sequence)
    assert grid.untyped_storage().data_ptr() == sequence.untyped_storage().data_ptr()
