"""How the time of a denoiser's forward divides among its mixers and other sublayers."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from statefilm.evaluation.speed.timing import Clock, Run, seconds_of, synchronizer
from statefilm.models.flops import CROSS, FEED_FORWARD

# Norms, residuals, modulation, scans, patches and the embeddings of time and position.
OTHER = "other"


def part_seconds(
    model: Any, run: Run, device: torch.device, *, rounds: int, clock: Clock
) -> dict[str, float]:
    """Seconds of each kind of sublayer in one call of `run`, the median of some rounds.

    Hooks look at the clock (on CUDA at events in the stream) before and after each sublayer; they
    cost a little, so the shares are what to read, not the sum.

    Args:
        model: an `HTHTransformer`.
        run: calls it once, forward.

    Returns:
        Each mixer by its name, "cross-attention", "feed-forward" and "other".
    """
    spans: list[tuple[str, Any, Any]] = []
    starts: dict[nn.Module, Any] = {}
    stamp, between = _clocks(device, clock)

    def before(module: nn.Module, *_: Any) -> None:
        starts[module] = stamp()

    def after(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, *_: Any) -> None:
            spans.append((name, starts.pop(module), stamp()))

        return hook

    handles = []
    for name, module in sublayers(model):
        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after(name)))
    found: list[dict[str, float]] = []
    try:
        for _ in range(rounds):
            spans.clear()
            whole = seconds_of(run, 1, clock, synchronizer(device))
            parts: dict[str, float] = defaultdict(float)
            for name, start, end in spans:
                parts[name] += between(start, end)
            parts[OTHER] = max(0.0, whole - sum(parts.values()))
            found.append(parts)
    finally:
        for handle in handles:
            handle.remove()
    return {name: statistics.median(parts[name] for parts in found) for name in found[0]}


def sublayers(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """The sublayers of all blocks, each with the name of its part."""
    for block, entry in zip(model.blocks, model.config.plan, strict=True):
        yield CROSS, block.cross_attention
        yield entry["mixer"], block.mixer
        yield FEED_FORWARD, block.feed_forward


def _clocks(
    device: torch.device, clock: Clock
) -> tuple[Callable[[], Any], Callable[[Any, Any], float]]:
    """What takes a stamp, and the seconds between two stamps."""
    if device.type != "cuda":
        synchronize = synchronizer(device)

        def read() -> float:
            synchronize()
            return clock()

        return read, lambda start, end: end - start

    def record() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(device))
        return event

    return record, lambda start, end: start.elapsed_time(end) / 1e3
