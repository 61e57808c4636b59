"""CIELAB against reference values, connected components and growth against plain loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from statefilm.evaluation.world.regions import connected_components, grow, srgb_to_lab


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((1, 1, 1), (100.0, 0.0, 0.0)),
        ((0, 0, 0), (0.0, 0.0, 0.0)),
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 1, 0), (87.74, -86.18, 83.18)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
    ],
)
def test_lab_of_the_primaries(rgb, lab):
    assert srgb_to_lab(torch.tensor(rgb, dtype=torch.float32)).tolist() == pytest.approx(
        lab, abs=0.03
    )


def flooded(labels: torch.Tensor) -> torch.Tensor:
    """Components by flood fill, numbered by their first pixel."""
    roots = torch.full(labels.shape, -1)
    height, width = labels.shape[1:]
    for start, (n, y, x) in enumerate(
        torch.cartesian_prod(*map(torch.arange, labels.shape)).tolist()
    ):
        todo = [(y, x)] if roots[n, y, x] < 0 else []
        while todo:
            y, x = todo.pop()
            if roots[n, y, x] >= 0:
                continue
            roots[n, y, x] = start
            for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= v < height and 0 <= u < width and labels[n, v, u] == labels[n, y, x]:
                    todo.append((v, u))
    return roots


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(1, 3),
    st.integers(1, 11),
    st.integers(2, 13),
    st.integers(1, 3),
)
def test_components_are_those_of_a_flood_fill(seed, count, height, width, colors):
    labels = torch.randint(
        colors, (count, height, width), generator=torch.Generator().manual_seed(seed)
    )
    assert torch.equal(connected_components(labels), flooded(labels))


def test_components_of_a_spiral():
    """One thin path through the whole picture: the most hooks that a region can need."""
    spiral = torch.zeros(1, 33, 33, dtype=torch.long)
    for ring in range(0, 16, 2):
        spiral[0, ring, ring : 33 - ring] = 1
        spiral[0, ring : 33 - ring, 32 - ring] = 1
        spiral[0, 32 - ring, ring : 33 - ring] = 1
        spiral[0, ring + 2 : 33 - ring, ring] = 1
        spiral[0, ring + 2, ring : ring + 3] = 1
    roots = connected_components(spiral)
    assert torch.equal(roots, flooded(spiral))
    assert (roots[spiral == 1] == 0).all()


def test_grow_by_steps_and_within_a_mask():
    regions = torch.zeros(1, 1, 7, dtype=torch.long)
    regions[0, 0, 3] = 5
    everywhere = torch.ones_like(regions, dtype=torch.bool)
    assert grow(regions, everywhere, steps=2).tolist() == [[[0, 5, 5, 5, 5, 5, 0]]]
    walled = everywhere.clone()
    walled[0, 0, 5] = False
    assert grow(regions, walled).tolist() == [[[5, 5, 5, 5, 5, 0, 0]]]
