"""The soft score: F1 of what is said and what is shown, on pictures whose faults are known."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statefilm.data.world import parse, sample_batch
from statefilm.evaluation.world import oracle, read_images
from statefilm.evaluation.world.triples import soft_score


def soft(asked, shown):
    (reading,) = read_images(oracle([shown], [3])[:, :, 0])
    return soft_score(reading, parse(asked))


@pytest.mark.parametrize(
    ("asked", "shown", "expected"),
    [
        ("a red circle", "a red circle", 1),
        ("a red circle", "a blue circle", 1 / 2),  # there, of another colour
        ("a red circle", "a red square", 0),
        ("a circle", "a red circle", 1),  # a colour that is not asked for does no harm
        ("a red circle", "a red circle and a blue square", 2 * 2 / (2 + 4)),
        ("three circles", "two circles", 2 * 2 / (3 + 2)),
        ("two circles", "three circles", 2 * 2 / (2 + 3)),
        ("a circle left of a square", "a circle left of a square", 1),
        ("a circle left of a square", "a circle right of a square", 2 * 2 / (3 + 3)),
        ("a red circle and a blue square", "a blue circle and a red square", 2 * 2 / (4 + 4)),
        ("a small red circle", "a large red circle", 2 * 2 / (3 + 3)),
        ("a red circle on a navy background", "a red circle on an olive background", 4 / 6),
    ],
)
def test_known_scores(asked, shown, expected):
    assert soft(asked, shown) == pytest.approx(expected)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_every_true_picture_scores_one(index):
    drawn = sample_batch(1, index, 4)
    readings = read_images(drawn.frames[:, :, 0])
    for reading, description in zip(readings, drawn.descriptions, strict=True):
        assert soft_score(reading, description) == 1
