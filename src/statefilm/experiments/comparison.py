"""Arms against the baseline: differences with 95 % intervals, and when one may be claimed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from statefilm.evaluation.world.results import Metric, mean
from statefilm.experiments.runner import Outcome

RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Difference:
    """An arm's figure less the baseline's.

    Attributes:
        low, high: the 95 % interval over images or samples.
        by_seed: the difference of each seed.
    """

    value: float
    low: float
    high: float
    by_seed: tuple[float, ...]

    @property
    def apart(self) -> bool:
        """Whether the interval leaves zero out."""
        return not self.low <= 0 <= self.high

    @property
    def found(self) -> bool:
        """Whether the interval leaves zero out and at least two seeds, all of them, agree."""
        agree = len({math.copysign(1, one) for one in self.by_seed}) == 1
        return self.apart and len(self.by_seed) > 1 and agree


def compare(arm: Sequence[Outcome], baseline: Sequence[Outcome], metric: str) -> Difference:
    """The difference of two arms in a benchmark's figure, seeds averaged.

    Source of the interval: Zou and Donner 2008 (the MOVER), from those of the two figures.
    """
    a, b = pooled(arm, metric), pooled(baseline, metric)
    value = a.value - b.value
    low = value - math.hypot(a.value - a.low, b.high - b.value)
    high = value + math.hypot(a.high - a.value, b.value - b.low)
    pairs = _paired(arm, baseline)
    by_seed = tuple(x.metrics[metric].value - y.metrics[metric].value for x, y in pairs)
    return Difference(value, low, high, by_seed)


def compare_losses(arm: Sequence[Outcome], baseline: Sequence[Outcome]) -> Difference:
    """The difference in the mean loss, sample by sample: all arms were given the same ones.

    Source of the interval: the paired bootstrap, percentiles (Efron 1982, chapter 10).
    """
    by_seed, gaps = [], []
    for x, y in _paired(arm, baseline):
        per_level = [
            [a - b for a, b in zip(errors, y.losses[name], strict=True)]
            for name, errors in x.losses.items()
        ]
        per_sample = [statistics.fmean(one) for one in zip(*per_level, strict=True)]
        by_seed.append(statistics.fmean(per_sample))
        gaps.append(per_sample)
    # Samples are the same in every seed, so that seeds are averaged before samples are.
    averaged = torch.tensor(gaps, dtype=torch.float64).mean(0)
    drawn = torch.randint(
        len(averaged), (RESAMPLES, len(averaged)), generator=torch.Generator().manual_seed(0)
    )
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = averaged[drawn].mean(1).quantile(ends).tolist()
    return Difference(float(averaged.mean()), low, high, tuple(by_seed))


def pooled(outcomes: Sequence[Outcome], metric: str) -> Metric:
    """An arm's figure over its seeds."""
    return mean([one.metrics[metric] for one in outcomes])


def mean_loss(outcomes: Sequence[Outcome]) -> float:
    """The mean squared error over seeds, streams, levels and samples."""
    return statistics.fmean(
        statistics.fmean(errors) for one in outcomes for errors in one.losses.values()
    )


def _paired(arm: Sequence[Outcome], baseline: Sequence[Outcome]) -> list[tuple[Outcome, Outcome]]:
    """The outcomes of the seeds that both have."""
    others = {one.seed: one for one in baseline}
    return [(one, others[one.seed]) for one in arm if one.seed in others]
