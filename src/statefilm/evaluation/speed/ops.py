"""The ops against each other at growing lengths, their floors, and where attention is overtaken."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch

from statefilm.evaluation.speed import agreement, machine
from statefilm.evaluation.speed.contestants import (
    BASE,
    Contestant,
    Inputs,
    contestants,
    draw,
    forward,
    forward_backward,
)
from statefilm.evaluation.speed.floors import OpShape, Rates, cost
from statefilm.evaluation.speed.memory import peak_bytes
from statefilm.evaluation.speed.report import Report, Row
from statefilm.evaluation.speed.timing import Protocol, Run, Timing, interleave, synchronizer

PASSES = ("forward", "forward+backward")
PROBE_LENGTH = 193  # odd, and a few chunks


def measure_ops(
    shape: OpShape,
    lengths: Iterable[int],
    *,
    dtype: torch.dtype,
    device: torch.device,
    protocol: Protocol,
    rates: Rates | None = None,
) -> Report:
    """Time every op that runs here, forward and with all gradients.

    Args:
        shape: of the calls; its own length is not used.
        lengths: tokens of a sequence, in any order.
        rates: of the machine in `dtype`; measured when None.
    """
    lengths = sorted(set(lengths))
    shapes = [replace(shape, length=length) for length in lengths]
    rates = rates or machine.measure_rates(device, dtype)
    race = _Race(dtype, device, protocol, rates)
    race.enter(shape)
    for name in PASSES:
        for sized in shapes:
            race.run(name, sized)
    found = {name: crossover(*_against_attention(race.rows, name)) for name in PASSES}
    settings = {key: value for key, value in asdict(shape).items() if key != "length"}
    return Report(
        bench="ops",
        machine=machine.describe(device, {dtype: rates}),
        settings={
            **settings,
            "lengths": lengths,
            "dtype": machine.name_of(dtype),
            "rounds": protocol.rounds,
            "budget": protocol.budget if math.isfinite(protocol.budget) else None,
        },
        rows=race.rows,
        left_out=race.left_out,
        summary={"crossover": found, "errors": race.errors},
        notes=[
            *(_crossover_line(name, length, race.rows) for name, length in found.items()),
            _errors_line(race.errors),
        ],
    )


class _Race:
    """Contestants that take part, and what has been measured of them so far."""

    def __init__(
        self, dtype: torch.dtype, device: torch.device, protocol: Protocol, rates: Rates
    ) -> None:
        self.dtype, self.device, self.protocol, self.rates = dtype, device, protocol, rates
        self.starters: list[Contestant] = []
        self.rows: list[Row] = []
        self.left_out: list[Row] = []
        self.errors: dict[str, dict[str, float]] = {}

    def enter(self, shape: OpShape) -> None:
        """Keep the contestants that run on this device and dtype and agree with the reference."""
        heads = shape.groups * min(2, shape.heads // shape.groups)
        shape = replace(shape, length=PROBE_LENGTH, batch=1, dim=heads * shape.head_dim)
        for contestant in contestants(self.device):
            found, why = agreement.check(contestant, shape, self.dtype, self.device)
            if why is not None:
                self._leave_out(contestant.name, why)
                continue
            self.starters.append(contestant)
            if found:
                self.errors[contestant.name] = found

    def run(self, name: str, shape: OpShape) -> None:
        """One pass at one length, all contestants in turns."""
        if self.protocol.expired:
            self._leave_out("all", "the time was used up", length=shape.length, of=name)
            return
        inputs: dict[str, Inputs] = {}
        runs: dict[str, Run] = {}
        for contestant in self.starters:
            why = self._too_much(contestant, name, shape.length)
            if why is not None:
                self._leave_out(contestant.name, why, length=shape.length, of=name)
                continue
            if contestant.op not in inputs:
                inputs[contestant.op] = draw(contestant.op, shape, self.dtype, self.device)
            call = forward if name == PASSES[0] else forward_backward
            runs[contestant.name] = partial(call, contestant.run, inputs[contestant.op])
        timings, failures = interleave(runs, self.protocol, synchronizer(self.device))
        for failed, why in failures.items():
            self._leave_out(failed, why, length=shape.length, of=name)
        for contestant in self.starters:
            if contestant.name in timings:
                peak = peak_bytes(runs[contestant.name], self.device)
                self.rows.append(self._row(contestant, name, shape, timings, peak))
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        spent = ", ".join(f"{op} {1e3 * timing.median:.3g}" for op, timing in timings.items())
        self.protocol.note(f"{name} at {shape.length}: {spent} ms")

    def _row(
        self,
        contestant: Contestant,
        name: str,
        shape: OpShape,
        timings: Mapping[str, Timing],
        peak: int | None,
    ) -> Row:
        timing, base = timings[contestant.name], timings.get(BASE)
        least = cost(contestant.op, shape, self.dtype.itemsize, backward=name != PASSES[0])
        return {
            "pass": name,
            "length": shape.length,
            "op": contestant.name,
            "computes": contestant.op,
            "seconds": timing.median,
            "rounds": list(timing.seconds),
            "spread": timing.spread,
            "seconds_per_token": timing.median / shape.tokens,
            "ratio": timing.median / base.median if base else None,
            "flops": least.flops,
            "bytes": least.bytes,
            "floor_seconds": least.floor(self.rates),
            "of_floor": least.floor(self.rates) / timing.median,
            "peak_bytes": peak,
        }

    def _too_much(self, contestant: Contestant, name: str, length: int) -> str | None:
        """Why a call is not tried, judged by the same contestant's last one."""
        last = next(
            (r for r in reversed(self.rows) if (r["op"], r["pass"]) == (contestant.name, name)),
            None,
        )
        if last is None:
            return None
        longer = length / last["length"]
        seconds = last["seconds"] * longer**contestant.growth
        if seconds > self.protocol.budget:
            return f"about {seconds:.3g} s a call, above {self.protocol.budget:g} s"
        needed = (last["peak_bytes"] or 0) * longer
        if self.protocol.memory is not None and needed > self.protocol.memory:
            return f"about {needed / 2**30:.3g} GiB, above {self.protocol.memory / 2**30:.3g} GiB"
        return None

    def _leave_out(
        self, op: str, why: str, length: int | None = None, of: str | None = None
    ) -> None:
        self.left_out.append({"op": op, "length": length, "pass": of, "why": why})


def crossover(
    lengths: Sequence[float], ours: Sequence[float], theirs: Sequence[float]
) -> float | None:
    """The length from which on ours is the shorter time.

    Between neighbouring lengths the ratio is a straight line in logarithms; of several crossings
    the last one counts.

    Returns:
        0 when ours is shorter at all lengths, None when it is not at the longest (or there is
        none).
    """
    gaps = [math.log(a / b) for a, b in zip(ours, theirs, strict=True)]
    if not gaps or gaps[-1] >= 0:
        return None
    behind = [index for index, gap in enumerate(gaps) if gap >= 0]
    if not behind:
        return 0.0
    index = behind[-1]
    share = gaps[index] / (gaps[index] - gaps[index + 1])
    low, high = math.log(lengths[index]), math.log(lengths[index + 1])
    return math.exp(low + share * (high - low))


def _against_attention(
    rows: Sequence[Row], name: str
) -> tuple[list[int], list[float], list[float]]:
    """Lengths at which both were measured, our seconds, and those of the fastest attention."""
    ours = _fastest(rows, lambda row: row["pass"] == name and row["op"] == BASE)
    theirs = _fastest(rows, lambda row: row["pass"] == name and row["computes"] == "sdpa")
    lengths = sorted(ours.keys() & theirs.keys())
    return lengths, [ours[n] for n in lengths], [theirs[n] for n in lengths]


def _fastest(rows: Sequence[Row], wanted: Callable[[Row], Any]) -> dict[int, float]:
    fastest: dict[int, float] = {}
    for row in filter(wanted, rows):
        length, seconds = row["length"], row["seconds"]
        fastest[length] = min(seconds, fastest.get(length, math.inf))
    return fastest


def _crossover_line(name: str, length: float | None, rows: Sequence[Row]) -> str:
    lengths, _, _ = _against_attention(rows, name)
    if not lengths:
        return f"{name}: attention and {BASE} were not both measured"
    if length is None:
        return f"{name}: attention is faster up to {lengths[-1]:,} tokens, the longest measured"
    if not length:
        return f"{name}: {BASE} is faster than attention from {lengths[0]:,} tokens, the shortest"
    return f"{name}: {BASE} is faster than attention from about {length:,.0f} tokens on"


def _errors_line(errors: Mapping[str, Mapping[str, float]]) -> str:
    worst = ", ".join(f"{op} {max(found.values()):.0e}" for op, found in errors.items())
    return f"largest error of output and gradients against float64, {PROBE_LENGTH} tokens: {worst}"
