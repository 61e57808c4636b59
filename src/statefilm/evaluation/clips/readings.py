"""Clips read back by the laws of their world: shares with intervals, and what they are beside."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from statefilm.data.worlds import find_world
from statefilm.evaluation.world.results import Metric
from statefilm.evaluation.world.statistics import Z_95


def read_clips(world: str, clips: Tensor, floor_clips: Tensor | None = None) -> dict[str, Metric]:
    """Mean verdicts on clips of a world, "balls", "maze" or "glyphs".

    Args:
        world: whose laws are asked for; its `verdict` names and explains the figures.
        clips: floating point [N, 3, T, H, H] in [-1, 1].
        floor_clips: read in the same way for the figures' floors; None gives floors of 0. Real
            clips with frames in random order (`shuffled_frames`) tell which figures speak of time.

    Returns:
        A figure for each verdict: its mean over the clips that hold something to judge by it, n of
        them. Its interval is Wilson's as for n verdicts of yes or no, which shares spread at most
        as far as, so that it is rather too wide. A figure without such clips is 0, from 0 to 1.

    Raises:
        UsageError: an unknown world, or frames that its reader does not take.
    """
    floors = {} if floor_clips is None else _means(world, floor_clips)
    figures = {}
    for name, (value, n) in _means(world, clips).items():
        low, high = _interval(value, n)
        figures[name] = Metric(value, low, high, n, floors.get(name, (0.0, 0))[0])
    return figures


def shuffled_frames(clips: Tensor, seed: int = 0) -> Tensor:
    """The clips [N, 3, T, H, W] with frames in an order of their own, a function of the seed."""
    drawn = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(clips.shape[2], generator=drawn) for _ in clips]
    return torch.stack([clip[:, order] for clip, order in zip(clips, orders, strict=True)])


def _means(world: str, clips: Tensor) -> dict[str, tuple[float, int]]:
    judge = find_world(world)
    verdicts = judge.verdicts(judge.read(clips))
    return {name: _mean([verdict[name] for verdict in verdicts]) for name in verdicts[0]}


def _mean(shares: Sequence[float]) -> tuple[float, int]:
    """The mean of the shares that are numbers, and how many are."""
    known = [share for share in shares if not math.isnan(share)]
    return (math.fsum(known) / len(known) if known else 0.0), len(known)


def _interval(mean: float, n: int) -> tuple[float, float]:
    """Wilson's interval (1927, equation 4) for a mean of n shares."""
    if n == 0:
        return 0.0, 1.0
    spread = Z_95 * math.sqrt(mean * (1 - mean) / n + (Z_95 / (2 * n)) ** 2)
    middle, scale = mean + Z_95**2 / (2 * n), 1 + Z_95**2 / n
    return min(mean, (middle - spread) / scale), max(mean, (middle + spread) / scale)
