"""Differences of arms: their values, their intervals, and when they may be claimed."""

import random
from dataclasses import replace

import pytest

from statefilm.evaluation.world.results import Metric, proportion
from statefilm.experiments.comparison import compare, compare_losses, pooled
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
    arm = [outcome("a", 0, 80, [1.0, 2.0, 3.0]), outcome("a", 1, 79, [1.1, 2.0, 3.0])]
    base = [outcome("b", 0, 40, [2.0, 3.1, 4.0]), outcome("b", 1, 40, [2.1, 3.1, 4.0])]
    arms = {"a": arm, "b": base}
    difference = compare(arms, "a", "b", "mean.strict")
    assert difference.value == pytest.approx(0.395)
    assert difference.by_seed == pytest.approx((0.4, 0.39))
    assert 0.25 < difference.low < 0.39 < difference.high < 0.51
    assert difference.found
    lower = compare_losses(arms, "a", "b")
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
    arms = {
        name: [outcome(name, seed, right, [1.0, 2.0]) for seed, right in rows]
        for name, rows in (("a", arm), ("b", base))
    }
    assert not compare(arms, "a", "b", "mean.strict").found


def test_only_seeds_that_both_have_are_paired():
    arm = [outcome("a", 1, 80, [1.0, 5.0]), outcome("a", 2, 80, [1.0, 5.0])]
    base = [outcome("b", 0, 70, [9.0, 9.0]), outcome("b", 1, 70, [2.0, 5.5])]
    arms = {"a": arm, "b": base}
    assert compare(arms, "a", "b", "mean.strict").by_seed == pytest.approx((0.1,))
    assert compare_losses(arms, "a", "b").by_seed == pytest.approx((-0.75,))


def test_the_luck_of_training_is_in_the_interval():
    """Arms that are equal but for luck: 5 % of the differences may be found, and no more."""
    draw = random.Random(0)
    found = 0
    for _ in range(400):
        arms = {
            name: [outcome(name, seed, 50, [1 + draw.gauss(0, 0.1)] * 8) for seed in (0, 1)]
            for name in "abcdefg"
        }
        found += compare_losses(arms, "b", "a").found
    assert 8 <= found <= 34


def test_figures_may_be_beyond_1():
    def far(name, value):
        metric = Metric(value, value - 0.15, value + 0.15, 32, 0.1)
        one = outcome(name, 0, 50, [1.0])
        return [replace(one, seed=seed, metrics={"fvd": metric}) for seed in (0, 1)]

    difference = compare({"a": far("a", 2.0), "b": far("b", 2.5)}, "a", "b", "fvd")
    ends = difference.low, difference.high
    assert ends == pytest.approx((-0.65, -0.35)) and difference.found


def test_what_nobody_could_judge_is_no_figure():
    none = Metric(0.0, 0.0, 1.0, 0, 0.0)
    blind = [replace(outcome("a", seed, 0, [1.0]), metrics={"walls": none}) for seed in (0, 1)]
    clear = [
        replace(outcome("b", seed, 0, [1.0]), metrics={"walls": proportion([True] * 4, 0.0)})
        for seed in (0, 1)
    ]
    assert pooled(blind, "walls") is None
    assert compare({"a": blind, "b": clear}, "a", "b", "walls") is None
    half = [blind[0], replace(clear[1], arm="a")]
    assert pooled(half, "walls").value == 1
    assert compare({"a": half, "b": clear}, "a", "b", "walls").by_seed == (0.0,)


def test_an_arm_that_could_not_be_judged_does_not_hide_how_others_disagree():
    none = Metric(0.0, 0.0, 1.0, 0, 0.0)
    arms = {
        name: [outcome(name, seed, right, [1.0]) for seed, right in enumerate(rights)]
        for name, rights in {"a": (95, 49), "b": (30, 50), "c": (40, 60)}.items()
    }
    arms["c"][1] = replace(arms["c"][1], metrics={"mean.strict": none})
    two = {name: arms[name] for name in "ab"}
    expected = compare(two, "a", "b", "mean.strict")
    assert not expected.found and expected.by_seed == pytest.approx((0.65, -0.01))
    assert compare(arms, "a", "b", "mean.strict") == expected
    one = compare(arms, "c", "b", "mean.strict")  # of the seed that both have
    assert one.value == pytest.approx(0.1) and not one.found
