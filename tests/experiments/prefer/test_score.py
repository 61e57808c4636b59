"""The score of choices: known values, symmetry, coverage of its interval."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statefilm.experiments.prefer import Choice, preference


def choices(wins, losses, ties=0):
    preferred = ["a"] * wins + ["b"] * losses + ["equal"] * ties
    return [Choice(f"{i}.png", one, "a", 1.0, 0.0) for i, one in enumerate(preferred)]


def test_known_values():
    found = preference(choices(30, 10, 20))
    assert (found.wins, found.losses, found.ties, found.count) == (30, 10, 20, 60)
    assert found.win_rate == pytest.approx(40 / 60)
    assert found.score == pytest.approx(math.log(30.5 / 10.5))
    spread = 1.959964 * math.sqrt(1 / 30.5 + 1 / 10.5)
    assert found.score_interval == pytest.approx((found.score - spread, found.score + spread))
    assert found.sentence("X", "Y") == "X is preferred to Y."


def test_nothing_is_claimed_of_few_choices():
    assert (
        preference(choices(3, 1)).sentence()
        == "No preference between A and B was found in 4 pairs."
    )
    assert preference([]).sentence().startswith("No preference")
    assert preference(choices(1, 20)).sentence() == "B is preferred to A."


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
def test_exchanged_systems_exchange_the_score(wins, losses, ties):
    one, other = preference(choices(wins, losses, ties)), preference(choices(losses, wins, ties))
    assert one.score == pytest.approx(-other.score)
    assert one.score_interval == pytest.approx(tuple(-end for end in other.score_interval[::-1]))
    assert one.win_rate == pytest.approx(1 - other.win_rate)
    low, high = one.win_rate_interval
    assert 0 <= low <= one.win_rate <= high <= 1
    assert all(math.isfinite(end) for end in one.score_interval)


def test_the_interval_covers_the_truth():
    """Bradley-Terry choices with ties (Davidson 1970): 95 % of the intervals hold the log odds."""
    truth, tie, hits = 0.8, 0.6, 0
    weights = [math.exp(truth / 2), math.exp(-truth / 2), tie]
    for trial in range(400):
        drawn = Random(trial).choices(["a", "b", "equal"], weights, k=80)
        low, high = preference(
            choices(*(drawn.count(c) for c in ("a", "b", "equal")))
        ).score_interval
        hits += low <= truth <= high
    assert 0.92 <= hits / 400 <= 0.98
