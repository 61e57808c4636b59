"""Quality, semantic and total score: dimensions put between their floor and the oracle, weighed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from statefilm.evaluation.world.results import Metric

# VBench, scripts/constant.py: all dimensions count alike but for the dynamic degree.
WEIGHTS = {"dynamic_degree": 0.5}
QUALITY_WEIGHT, SEMANTIC_WEIGHT = 4.0, 1.0
QUALITY_OF = (
    "subject_consistency",
    "background_consistency",
    "temporal_flickering",
    "motion_smoothness",
    "dynamic_degree",
    "imaging_quality",
)
QUALITY_SCORE, SEMANTIC_SCORE, TOTAL_SCORE = "quality_score", "semantic_score", "total_score"
_RESAMPLES = 500
_TINY = 1e-9


def normalised(value: float, floor: float, oracle: float) -> float:
    """Where a value stands between its floor (0) and the oracle (1), not beyond either."""
    span = oracle - floor
    if span < _TINY:
        return float(value >= oracle)
    return min(1.0, max(0.0, (value - floor) / span))


def total_scores(
    tasks: Sequence[Sequence[Mapping[str, float]]],
    floors: Mapping[str, float],
    oracle: Mapping[str, float],
    semantics: Sequence[str],
    seed: int = 0,
) -> dict[str, Metric]:
    """The scores of clips, as VBench (arXiv 2311.17982) makes them from its dimensions.

    Args:
        tasks: for each task its clips, for each clip its dimensions.
        floors, oracle: what each dimension is normalised with.
        semantics: the dimensions of the semantic score; where one was not judged there is neither
            this score nor a total.
        seed: of the resampling.

    Returns:
        "quality_score", "semantic_score" and "total_score", (4 quality + semantic) / 5. Their 95 %
        intervals are the bootstrap's over the clips of each task, floors and oracle held fixed.
    """
    names = sorted({name for clips in tasks for clip in clips for name in clip})
    scores = [
        torch.tensor([[clip.get(name, math.nan) for name in names] for clip in clips]).double()
        for clips in tasks
    ]
    generator = torch.Generator().manual_seed(seed)

    def drawn(clips: Tensor) -> Tensor:
        return clips[torch.randint(len(clips), (len(clips),), generator=generator)]

    def means(parts: Sequence[Tensor]) -> dict[str, float]:
        return dict(zip(names, torch.cat(list(parts)).nanmean(0).tolist(), strict=True))

    groups = {QUALITY_SCORE: QUALITY_OF, SEMANTIC_SCORE: tuple(semantics)}
    groups = {name: group for name, group in groups.items() if set(group) <= set(names)}

    def weigh(values: Mapping[str, float]) -> dict[str, float]:
        unit = {name: normalised(values[name], floors[name], oracle[name]) for name in names}
        found = {name: _weighted(unit, group) for name, group in groups.items()}
        if len(found) == 2:
            quality, semantic = found[QUALITY_SCORE], found[SEMANTIC_SCORE]
            total = QUALITY_WEIGHT * quality + SEMANTIC_WEIGHT * semantic
            found[TOTAL_SCORE] = total / (QUALITY_WEIGHT + SEMANTIC_WEIGHT)
        return found

    resampled = [weigh(means([drawn(clips) for clips in scores])) for _ in range(_RESAMPLES)]
    count = sum(map(len, tasks))
    return {
        name: Metric(value, *_ends([one[name] for one in resampled], value), count, 0.0)
        for name, value in weigh(means(scores)).items()
    }


def _weighted(values: Mapping[str, float], group: Sequence[str]) -> float:
    weights = [WEIGHTS.get(name, 1.0) for name in group]
    total = math.fsum(w * values[name] for w, name in zip(weights, group, strict=True))
    return total / math.fsum(weights)


def _ends(values: Sequence[float], value: float) -> tuple[float, float]:
    """The 2.5 % and 97.5 % points, the value between them."""
    low, high = torch.tensor(values).double().quantile(torch.tensor([0.025, 0.975]).double())
    return min(float(low), value), max(float(high), value)
