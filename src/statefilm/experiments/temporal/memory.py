"""The study `temporal-memory`: memory and time of temporal layers by the number of frames."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from statefilm.errors import UsageError
from statefilm.evaluation.speed import machine
from statefilm.evaluation.speed.memory import peak_bytes
from statefilm.evaluation.speed.report import Row
from statefilm.evaluation.speed.timing import Protocol, Run, interleave, synchronizer
from statefilm.experiments.temporal.arms import (
    ARMS,
    ATTENTION,
    Arm,
    choose_arms,
    matched,
    parameters_of,
    published,
)
from statefilm.experiments.temporal.saved import counter, crossing, growth
from statefilm.experiments.temporal.subjects import OneLayer, Subject, WholeUNet

NAME = "temporal-memory"
QUESTION = (
    "What do temporal layers cost by the number of frames: memory in training and at inference, "
    "and time a step?"
)
FRAMES = (16, 64, 256, 1024)
WIDTH, PARAMETERS = "equal width", "equal parameters"
REFERENCE = "s6-bi"  # its parameters are those of all layers where they are equal
GROWTH = (64, 1024)  # frames between which bytes a frame are compared
CROSSING_LIMIT = 4096  # frames
# Of the bytes that a forward keeps: what a training step takes at its peak, at most about.
STEP_OVER_SAVED = 3


@dataclass
class MemoryResults:
    """What the study found, plain data.

    Attributes:
        machine: what `machine.describe` says.
        settings: how was measured.
        layers: one for each subject, comparison and arm: options, parameters, how far its bytes a
            frame are from constant, and the frames from which attention keeps more.
        rows: one for each layer and number of frames; bytes and seconds, None where not measured.
        left_out: what was not measured, and "why".
    """

    machine: dict[str, Any]
    settings: dict[str, Any]
    layers: list[Row] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    left_out: list[Row] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return asdict(self)


def measure_memory(
    device: torch.device,
    protocol: Protocol,
    *,
    arms: Sequence[str] | None = None,
    frames: Sequence[int] = FRAMES,
    subjects: Sequence[Subject] = (),
) -> MemoryResults:
    """Measure every arm in every subject, at equal width and at equal parameters.

    Bytes kept for the backward are counted exactly at every size; times and peaks are measured in
    turns, as far as the protocol's budget and memory allow.

    Args:
        arms: names of `ARMS`, attention among them; None is all.
        frames: numbers of frames, each 1 or more.
        subjects: where it is measured; none is one layer, and a small U-Net.

    Raises:
        UsageError: an unknown arm, no attention to compare with, or a bad number of frames.
    """
    chosen = choose_arms(arms)
    if ATTENTION not in chosen:
        raise UsageError(f"the arms leave out {ATTENTION!r}, which the others are compared with")
    frames = sorted(set(frames))
    if not frames or frames[0] < 1:
        raise UsageError(f"frames {list(frames)}: valid are numbers from 1")
    budget = protocol.budget if math.isfinite(protocol.budget) else None
    settings = {"frames": frames, "rounds": protocol.rounds, "budget_seconds": budget}
    results = MemoryResults(machine.describe(device), settings)
    places: Sequence[Subject] = subjects or (OneLayer(), WholeUNet())
    for subject in places:
        for comparison in (WIDTH, PARAMETERS):
            _measure(results, subject, comparison, chosen, frames, device, protocol)
    return results


def _measure(
    results: MemoryResults,
    subject: Subject,
    comparison: str,
    names: Sequence[str],
    frames: Sequence[int],
    device: torch.device,
    protocol: Protocol,
) -> None:
    """One comparison in one subject: its layers, rows, and what is left out."""
    place = {"subject": subject.name, "comparison": comparison}
    arms = dict(_layers(subject, comparison, names))
    for name in (name for name in names if name not in arms):
        why = f"has no options that bring it to the size of {REFERENCE}"
        results.left_out.append({**place, "arm": name, "why": why})
    counts = {name: counter(subject, arm, device) for name, arm in arms.items()}
    for name, arm in arms.items():
        results.layers.append(
            {
                **place,
                "arm": name,
                "mixer": arm.mixer,
                "options": dict(arm.options),
                "parameters": parameters_of(arm, subject.widths),
                "growth": growth(counts[name], *GROWTH),
                "attention_passes_at": None
                if name == ATTENTION
                else crossing(counts[ATTENTION], counts[name], CROSSING_LIMIT),
            }
        )
        protocol.note(f"{subject.name}, {comparison}, {name}: counted")
    spent: dict[str, Row] = {}
    for length in frames:
        saved = {name: counts[name](length) for name in arms}
        runs = {}
        for name in arms:
            if why := _too_much(saved[name], spent.get(name), protocol):
                results.left_out.append({**place, "arm": name, "frames": length, "why": why})
            else:
                runs[name] = arms[name]
        measured, failures = _costs(subject, runs, length, device, protocol)
        for name, why in failures.items():
            results.left_out.append({**place, "arm": name, "frames": length, "why": why})
        for name in arms:
            row = {**place, "arm": name, "frames": length, "saved_bytes": saved[name]}
            results.rows.append({**row, **measured.get(name, dict.fromkeys(COSTS))})
            if name in measured:
                spent[name] = results.rows[-1]
        protocol.note(f"{subject.name}, {comparison}, {length} frames: measured")


COSTS = (
    "inference_peak_bytes",
    "training_peak_bytes",
    "forward_seconds",
    "forward_spread",
    "step_seconds",
    "step_spread",
)


def _costs(
    subject: Subject,
    arms: dict[str, Arm],
    frames: int,
    device: torch.device,
    protocol: Protocol,
) -> tuple[dict[str, Row], dict[str, str]]:
    """Times, in turns, and peaks of each arm; and why an arm failed."""
    torch.manual_seed(0)
    runs: dict[str, Run] = {}
    for name, arm in arms.items():
        module = subject.build(arm, device)
        inputs = subject.inputs(frames, device)
        runs[f"forward {name}"] = partial(_forward, subject, module, inputs)
        runs[f"step {name}"] = partial(_step, subject, module, inputs)
    timings, failed = interleave(runs, protocol, synchronizer(device))
    failures = {name.split(" ", 1)[1]: why for name, why in failed.items()}
    measured = {}
    for name in arms.keys() - failures.keys():
        forward, step = timings[f"forward {name}"], timings[f"step {name}"]
        values = (
            peak_bytes(runs[f"forward {name}"], device),
            peak_bytes(runs[f"step {name}"], device),
            forward.median,
            forward.spread,
            step.median,
            step.spread,
        )
        measured[name] = dict(zip(COSTS, values, strict=True))
    return measured, failures


def _forward(subject: Subject, module: nn.Module, inputs: list[torch.Tensor]) -> object:
    with torch.no_grad():
        return subject.forward(module, inputs)


def _step(subject: Subject, module: nn.Module, inputs: list[torch.Tensor]) -> object:
    """Forward, and the gradients of all weights."""
    y = subject.forward(module, inputs)
    wanted = [*module.parameters(), *(one for one in inputs if one.requires_grad)]
    return torch.autograd.grad(y, wanted, torch.ones_like(y))


def _layers(subject: Subject, comparison: str, names: Sequence[str]) -> Iterator[tuple[str, Arm]]:
    target = parameters_of(ARMS[REFERENCE], subject.widths)
    for name in names:
        arm: Arm | None = published(ARMS[name], subject.base)
        if comparison == PARAMETERS:
            arm = matched(ARMS[name], subject.widths, target)
        if arm is not None:
            yield name, arm


def _too_much(saved: int, shorter: Row | None, protocol: Protocol) -> str:
    """Why a step is not taken, "" if it is: what it needs is foreseen from what it keeps."""
    if protocol.memory is not None and STEP_OVER_SAVED * saved > protocol.memory:
        return f"would need about {STEP_OVER_SAVED * saved / 2**30:.3g} GiB"
    if shorter is not None:
        seconds = shorter["step_seconds"] * saved / shorter["saved_bytes"]
        if seconds > protocol.budget:
            return f"would take about {seconds:.3g} s"
    return ""
