"""Seams: whether the borders of a denoiser's tokens show in its images as a checkerboard."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from statefilm.evaluation.world.results import Metric
from statefilm.evaluation.world.statistics import Z_95


def seams(images: Tensor, patch: tuple[int, int]) -> Tensor:
    """How much more pixels differ across the borders of patches than one step before and after.

    Edges of things lie as often on a border as beside it, so that images without seams give 0 on
    average.

    Args:
        images: [N, C, H, W] in [-1, 1].
        patch: rows and columns of a token in pixels, which divide H and W.

    Returns:
        [N], mean absolute differences in levels of 8 bits, both directions together.

    Raises:
        ValueError: patches of one pixel have no inside, do not divide the image, or fill it.
    """
    height, width = images.shape[-2:]
    whole = (height, width) == tuple(patch)
    if min(patch) < 2 or height % patch[0] or width % patch[1] or whole:
        raise ValueError(
            f"patches of {list(patch)} pixels: valid are 2 or more that divide {height} x {width}"
        )
    found = []
    for axis, side in ((-2, patch[0]), (-1, patch[1])):
        change = images.diff(dim=axis).abs().mean(1).transpose(axis, -1)  # [N, across, steps]
        borders = torch.arange(change.shape[-1] + 1, device=images.device)[side:-1:side] - 1
        beside = (change[..., borders - 1] + change[..., borders + 1]) / 2
        found.append((change[..., borders] - beside).flatten(1))
    return torch.cat(found, 1).mean(1) * 127.5


def mean_seams(batches: Sequence[Tensor], patch: tuple[int, int]) -> Metric:
    """The mean of `seams` with its 95 % interval, by the spread over images; its floor is 0.

    Args:
        batches: images [n, C, H, W].
    """
    values = torch.cat([seams(images, patch) for images in batches]).double()
    n, mean = len(values), float(values.mean())
    spread = Z_95 * float(values.std()) / math.sqrt(n) if n > 1 else math.inf
    return Metric(mean, mean - spread, mean + spread, n, 0.0)
