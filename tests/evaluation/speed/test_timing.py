"""Turns, medians and warm-up, with a clock that moves only when a contestant works."""

import math

import pytest
import torch

from statefilm.evaluation.speed.timing import Protocol, Timing, interleave, synchronizer


class FakeClock:
    """Shows the seconds that contestants have spent."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def __call__(self):
        return self.now

    def contestant(self, name, *seconds):
        """Takes these seconds in its first calls, and the last of them from then on."""
        left = list(seconds)

        def run():
            self.calls.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


@pytest.fixture
def clock():
    return FakeClock()


def test_contestants_take_turns_in_changing_orders(clock):
    runs = {name: clock.contestant(name, 1.0) for name in "abc"}
    interleave(runs, Protocol(rounds=3, settle_seconds=0.5, clock=clock))
    warm_up, rounds = clock.calls[:6], clock.calls[6:]
    assert warm_up == ["a", "a", "b", "b", "c", "c"]
    assert ["".join(rounds[i : i + 3]) for i in (0, 3, 6)] == ["abc", "acb", "cab"]


def test_the_median_forgets_the_first_call_and_a_disturbed_round(clock):
    runs = {"a": clock.contestant("a", 100.0, 4.0, 4.0, 50.0, 3.0)}
    timings, failures = interleave(runs, Protocol(rounds=3, clock=clock))
    assert timings["a"].seconds == (4.0, 50.0, 3.0)
    assert timings["a"].median == 4.0
    assert failures == {}


def test_short_calls_are_repeated_within_a_turn(clock):
    runs = {"short": clock.contestant("short", 0.25), "long": clock.contestant("long", 8.0)}
    timings, _ = interleave(runs, Protocol(rounds=2, min_seconds=1.0, clock=clock))
    assert timings["short"].seconds == (0.25, 0.25)
    assert clock.calls.count("short") == 1 + 4 + 2 * (1 + 4)
    assert clock.calls.count("long") == 1 + 1 + 2


def test_one_that_fails_does_not_end_the_race(clock):
    def broken():
        raise RuntimeError("no kernel\nand more")

    runs = {"broken": broken, "a": clock.contestant("a", 1.0)}
    timings, failures = interleave(runs, Protocol(rounds=2, clock=clock))
    assert list(timings) == ["a"]
    assert failures == {"broken": "RuntimeError: no kernel"}
    assert interleave({}, Protocol(clock=clock)) == ({}, {})


def test_the_device_is_waited_for_before_each_look_at_the_clock(clock):
    waits = []
    runs = {"a": clock.contestant("a", 4.0)}
    interleave(runs, Protocol(rounds=2, clock=clock), lambda: waits.append(len(clock.calls)))
    assert waits == [0, 1, 1, 2, 2, 3, 3, 4]
    assert synchronizer(torch.device("cpu"))() is None


def test_spread_is_the_distance_of_the_quartiles():
    assert Timing((1.0, 2.0, 3.0, 4.0, 5.0)).spread == pytest.approx(2 / 3)
    assert Timing((2.0,)).spread == 0.0


def test_a_deadline(clock):
    assert not Protocol(clock=clock).expired
    assert Protocol(deadline=-1.0, clock=clock).expired
    assert Protocol().deadline == math.inf
