"""Differences of arms: their values, their intervals, and when they may be claimed."""

import pytest

from statefilm.evaluation.world.results import proportion
from statefilm.experiments.comparison import compare, compare_losses
from statefilm.experiments.runner import Outcome


def outcome(arm, seed, right, losses, total=100):
    verdicts = [True] * right + [False] * (total - right)
    return Outcome(
        arm=arm,
        seed=seed,
        steps=1,
        parameters=1,
        flops=1.0,
        seconds=1.0,
        metrics={"mean.strict": proportion(verdicts, 0.0)},
        losses={"image 0.5": losses},
    )


def test_a_clear_difference_is_found():
    arm = [outcome("a", 0, 80, [1.0, 2.0, 3.0]), outcome("a", 1, 90, [1.0, 2.0, 3.0])]
    base = [outcome("b", 0, 40, [2.0, 3.1, 4.0]), outcome("b", 1, 30, [2.0, 3.1, 4.0])]
    difference = compare(arm, base, "mean.strict")
    assert difference.value == pytest.approx(0.5)
    assert difference.by_seed == pytest.approx((0.4, 0.6))
    assert 0.3 < difference.low < 0.5 < difference.high < 0.6
    assert difference.found
    lower = compare_losses(arm, base)
    assert lower.value == pytest.approx(-3.1 / 3)
    assert lower.found and lower.low < lower.value < lower.high < 0


@pytest.mark.parametrize(
    ("arm", "base"),
    [
        ([(0, 80)], [(0, 40)]),  # one seed is not enough
        ([(0, 52), (1, 55)], [(0, 50), (1, 50)]),  # within the interval
        ([(0, 95), (1, 49)], [(0, 30), (1, 50)]),  # the seeds disagree
    ],
)
def test_what_is_not_found(arm, base):
    arms = [
        [outcome(name, seed, right, [1.0, 2.0]) for seed, right in rows]
        for name, rows in (("a", arm), ("b", base))
    ]
    assert not compare(*arms, "mean.strict").found


def test_only_seeds_that_both_have_are_paired():
    arm = [outcome("a", 1, 80, [1.0, 5.0]), outcome("a", 2, 80, [1.0, 5.0])]
    base = [outcome("b", 0, 70, [9.0, 9.0]), outcome("b", 1, 70, [2.0, 5.5])]
    assert compare(arm, base, "mean.strict").by_seed == pytest.approx((0.1,))
    assert compare_losses(arm, base).by_seed == pytest.approx((-0.75,))
