"""Arms against the baseline: differences with 95 % intervals, and when one may be claimed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from statefilm.evaluation.world.results import Metric, mean
from statefilm.experiments.runner import Outcome

Arms = Mapping[str, Sequence[Outcome]]

RESAMPLES = 10_000
# Quantiles 0.975 of Student's t for 1, 2, ... degrees of freedom.
T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)


@dataclass(frozen=True, slots=True)
class Difference:
    """An arm's figure less the baseline's.

    Attributes:
        low, high: the 95 % interval over images or samples and, with two seeds or more, over the
            luck of training.
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
        """Whether the interval leaves zero out, and holds the luck of at least two seeds."""
        return self.apart and len(self.by_seed) > 1


def compare(arms: Arms, arm: str, baseline: str, metric: str) -> Difference | None:
    """The difference of two arms in a benchmark's figure, averaged over the seeds in which both
    could be judged; None if there is no such seed.

    Args:
        arms: all of the study: how far their seeds disagree tells of the luck of training.

    Source of the interval over samples: Zou and Donner 2008 (the MOVER), from those of the two
    figures.
    """

    def figure(one: Outcome) -> float | None:
        found = one.metrics[metric]
        return found.value if found.n else None

    pairs = [
        (x, y)
        for x, y in _paired(arms[arm], arms[baseline])
        if x.metrics[metric].n and y.metrics[metric].n
    ]
    if not pairs:
        return None
    a, b = (mean([one.metrics[metric] for one in own]) for own in zip(*pairs, strict=True))
    value, luck = a.value - b.value, _luck(arms, [x.seed for x, _ in pairs], figure)
    low = value - math.hypot(a.value - a.low, b.high - b.value, luck)
    high = value + math.hypot(a.high - a.value, b.value - b.low, luck)
    by_seed = tuple(x.metrics[metric].value - y.metrics[metric].value for x, y in pairs)
    return Difference(value, low, high, by_seed)


def compare_losses(arms: Arms, arm: str, baseline: str) -> Difference:
    """The difference in the mean loss, sample by sample: all arms were given the same ones.

    Args:
        arms: as in `compare`; those whose losses are of one scale.

    Source of the interval over samples: the paired bootstrap, percentiles (Efron 1982,
    chapter 10).
    """
    by_seed, gaps = [], []
    pairs = _paired(arms[arm], arms[baseline])
    for x, y in pairs:
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
    value = float(averaged.mean())
    luck = _luck(arms, [x.seed for x, _ in pairs], lambda one: mean_loss([one]))
    low, high = value - math.hypot(value - low, luck), value + math.hypot(high - value, luck)
    return Difference(value, low, high, tuple(by_seed))


def pooled(outcomes: Sequence[Outcome], metric: str) -> Metric | None:
    """An arm's figure over the seeds in which something could be judged; None if in none."""
    judged = [one.metrics[metric] for one in outcomes if one.metrics[metric].n]
    return mean(judged) if judged else None


def mean_loss(outcomes: Sequence[Outcome]) -> float:
    """The mean squared error over seeds, streams, levels and samples."""
    return statistics.fmean(
        statistics.fmean(errors) for one in outcomes for errors in one.losses.values()
    )


def _luck(arms: Arms, seeds: Sequence[int], figure: Callable[[Outcome], float | None]) -> float:
    """Half of the 95 % interval that the luck of training alone gives a difference of two arms.

    What a figure is in each arm and seed, less the arm's mean and less what the seed does to all
    arms, is luck; its spread is that of all arms that have the figure in these seeds, which the few
    seeds of two would not tell. Source: the two-way analysis of variance without repetition (Fisher
    1925, chapter 8). With one seed nothing is known of it, and it is 0.
    """
    tables = [{one.seed: figure(one) for one in own} for own in arms.values()]
    rows = [[table.get(seed) for seed in seeds] for table in tables]
    known = [row for row in rows if None not in row]
    if len(seeds) < 2 or len(known) < 2:
        return 0.0
    grid = torch.tensor(known, dtype=torch.float64)
    residual = grid - grid.mean(1, keepdim=True) - grid.mean(0, keepdim=True) + grid.mean()
    freedom = (len(known) - 1) * (len(seeds) - 1)
    variance = float(residual.square().sum()) / freedom
    quantile = T_975[min(freedom, len(T_975)) - 1]
    return quantile * math.sqrt(2 * variance / len(seeds))


def _paired(arm: Sequence[Outcome], baseline: Sequence[Outcome]) -> list[tuple[Outcome, Outcome]]:
    """The outcomes of the seeds that both have."""
    others = {one.seed: one for one in baseline}
    return [(one, others[one.seed]) for one in arm if one.seed in others]
