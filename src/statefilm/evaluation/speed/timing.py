"""Interleaved timing: contestants take turns round by round, and the median of the rounds counts.

What disturbs a machine for a while then disturbs all of them alike, and a round that was hit drops
out of the medians.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

Clock = Callable[[], float]
Run = Callable[[], object]

MAX_CALLS = 1000  # of one contestant in one round


@dataclass(frozen=True, slots=True)
class Protocol:
    """How long and how often is measured.

    Attributes:
        rounds: turns of each contestant.
        min_seconds: a turn repeats short calls until it lasts about so long.
        settle_seconds: a turn of calls shorter than this begins with one that is not counted, so
            that none pays for the state in which the one before it left caches and memory.
        budget: seconds; a call that is expected to take longer is left out.
        memory: bytes; a call that is expected to need more is left out; None knows no bound.
        deadline: what `clock` shows when nothing more is begun.
        note: takes a line on what has just been measured.
    """

    rounds: int = 5
    min_seconds: float = 0.02
    settle_seconds: float = 2.0
    budget: float = math.inf
    memory: int | None = None
    deadline: float = math.inf
    note: Callable[[str], None] = lambda text: None
    clock: Clock = time.perf_counter

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return self.clock() > self.deadline


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one call, an entry for each round: the mean over the calls of that turn."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle round."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Distance of the quartiles over the median: what the noise was."""
        if len(self.seconds) < 2:
            return 0.0
        low, middle, high = statistics.quantiles(self.seconds, method="inclusive")
        return (high - low) / middle if middle else 0.0


def interleave(
    contestants: Mapping[str, Run],
    protocol: Protocol,
    synchronize: Callable[[], object] = lambda: None,
) -> tuple[dict[str, Timing], dict[str, str]]:
    """Time the contestants in turns, after each has been warmed up.

    Args:
        contestants: what to call, by name.
        protocol: its rounds, their length and the clock.
        synchronize: waits until the device has done all it was given; called before each look at
            the clock.

    Returns:
        The timing of each contestant that ran, and why the others did not.
    """
    turns: dict[str, _Turn] = {}
    failures: dict[str, str] = {}
    for name, run in contestants.items():
        try:
            turns[name] = _warm_up(run, protocol, synchronize)
        except Exception as error:  # one that does not run must not end the others' race
            failures[name] = reason(error)
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for index in range(protocol.rounds):
        for name in _order(list(turns), index):
            run, turn = contestants[name], turns[name]
            if turn.settles:
                run()
            spent = seconds_of(run, turn.calls, protocol.clock, synchronize)
            seconds[name].append(spent / turn.calls)
    return {name: Timing(tuple(rounds)) for name, rounds in seconds.items()}, failures


def seconds_of(run: Run, calls: int, clock: Clock, synchronize: Callable[[], object]) -> float:
    """Seconds of that many calls together."""
    synchronize()
    start = clock()
    for _ in range(calls):
        run()
    synchronize()
    return clock() - start


def synchronizer(device: torch.device) -> Callable[[], object]:
    """What waits for a device; on a CPU calls are done when they return."""
    if device.type == "cpu":
        return lambda: None
    return lambda: torch.accelerator.synchronize(device)


def reason(error: BaseException) -> str:
    """An exception as the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__


class _Turn(NamedTuple):
    """How many calls are counted in a turn, and whether one goes before them."""

    calls: int
    settles: bool


def _warm_up(run: Run, protocol: Protocol, synchronize: Callable[[], object]) -> _Turn:
    """What fills a turn; the first call, which may compile, is not counted."""
    seconds_of(run, 1, protocol.clock, synchronize)
    calls, spent = 0, 0.0
    while calls == 0 or (spent < protocol.min_seconds and calls < MAX_CALLS):
        spent += seconds_of(run, 1, protocol.clock, synchronize)
        calls += 1
    return _Turn(calls, spent / calls < protocol.settle_seconds)


def _order(names: list[str], index: int) -> list[str]:
    """Another one begins each round, and every other round runs backwards: neighbours change."""
    start = index % len(names) if names else 0
    order = names[start:] + names[:start]
    return order[::-1] if index % 2 else order
