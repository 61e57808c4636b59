"""Wilson's interval against published values and its own defining equation."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statefilm.evaluation.world.statistics import Z_95, mean_interval, wilson_interval


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_matches_published_values(successes, trials, low, high):
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_ends_solve_the_score_equation(case):
    successes, trials = case
    rate = successes / trials
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= rate + 1e-12 and rate - 1e-12 <= high <= 1
    for end in (low, high):
        assert (rate - end) ** 2 == pytest.approx(Z_95**2 * end * (1 - end) / trials, abs=1e-9)


def test_no_trials_and_bad_counts():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="successes=5"):
        wilson_interval(5, 4)
    assert not math.isnan(sum(wilson_interval(1, 1)))


def test_interval_of_a_mean():
    part = (0.5, *wilson_interval(50, 100))
    assert mean_interval([part]) == pytest.approx(part[1:])
    low, high = mean_interval([part] * 4)
    # Four independent parts halve the distance.
    assert 0.5 - low == pytest.approx((0.5 - part[1]) / 2)
    assert high - 0.5 == pytest.approx((part[2] - 0.5) / 2)
    with pytest.raises(ValueError, match="no figures"):
        mean_interval([])
