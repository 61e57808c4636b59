"""Fréchet distances: exact in float64, and FVD-rand128 between clips with its floor."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from statefilm.errors import UsageError
from statefilm.evaluation.clips.network import clip_features
from statefilm.evaluation.world.statistics import Z_95

GROUPS = 8  # of clips, that the jackknife leaves out in turn


@dataclass(frozen=True, slots=True)
class Distance:
    """An FVD-rand128.

    It falls as n grows, above all where n is not several times the number of features: compare
    distances of one n only, and read each beside its floor.

    Attributes:
        low, high: the 95 % interval over the generated clips, by the jackknife.
        floor: the distance of two disjoint sets of n real clips: what a perfect generator gets.
        n: clips on each side.
        features: of each clip.
    """

    value: float
    low: float
    high: float
    floor: float
    n: int
    features: int


def fvd_rand128(generated: Tensor, real: Tensor) -> Distance:
    """The Fréchet distance of generated clips from real ones in the features of `network`.

    The name says what it is: features of a fixed random network, not of I3D, so that no value
    compares with a published FVD (arXiv 1812.01717).

    Args:
        generated: floating point [n, 3, T, H, W] in [-1, 1], at least 2 * `GROUPS` clips.
        real: [2 * n, 3, T, H, W]; the first half is compared with, both halves give the floor.

    Raises:
        UsageError: other numbers of clips, or of another size.
    """
    n = len(generated)
    if n < 2 * GROUPS:
        raise UsageError(f"{n} generated clips are too few: valid are at least {2 * GROUPS}")
    if len(real) != 2 * n:
        raise UsageError(f"{len(real)} real clips: valid are {2 * n}, twice the generated ones")
    if generated.shape[1:] != real.shape[1:]:
        sizes = [list(clips.shape[1:]) for clips in (generated, real)]
        raise UsageError(f"generated clips are {sizes[0]}, real ones {sizes[1]}: give one size")
    own = clip_features(generated)
    first, second = clip_features(real).split(n)
    value = frechet_distance(own, first)
    spread = Z_95 * _deviation(own, first)
    return Distance(
        value,
        max(0.0, value - spread),
        value + spread,
        frechet_distance(first, second),
        n,
        own.shape[1],
    )


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """|mean a - mean b|^2 + tr(A + B - 2 (A B)^(1/2)) of the covariances A and B, in float64.

    This is the squared 2-Wasserstein distance of two Gaussians (Dowson and Landau 1982; arXiv
    1706.08500, equation 6). With A = X' X and B = Y' Y the root's trace is the sum of the singular
    values of X Y', so that no root of a matrix is taken and no precision lost.

    Args:
        a, b: features [N, D] and [M, D], N and M at least 2.

    Raises:
        UsageError: other shapes.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        shapes = f"{list(a.shape)} and {list(b.shape)}"
        raise UsageError(f"features are {shapes}: valid are [N, D] and [M, D], 2 rows or more")
    a, b = a.double(), b.double()
    means = (a.mean(0) - b.mean(0)).square().sum()
    x, y = _factor(a), _factor(b)
    overlap = torch.linalg.matrix_norm(x @ y.T, "nuc")
    return max(0.0, float(means + x.square().sum() + y.square().sum() - 2 * overlap))


def _factor(features: Tensor) -> Tensor:
    """X of at most D rows, with X' X the covariance of [N, D]."""
    centred = (features - features.mean(0)) / math.sqrt(len(features) - 1)
    return torch.linalg.qr(centred, mode="r").R


def _deviation(own: Tensor, real: Tensor) -> float:
    """The standard deviation of a distance by the draw of its n generated clips.

    Source: the delete-a-group jackknife (Efron 1982, chapter 3), `GROUPS` groups.
    """
    group = torch.arange(len(own)) % GROUPS
    left = torch.tensor([frechet_distance(own[group != one], real) for one in range(GROUPS)])
    return math.sqrt(float((GROUPS - 1) * left.var(correction=0)))
