"""The fixed network behind FVD-rand128: random weights from a seed, nothing to download."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from statefilm.errors import UsageError

SEED = 128
CHANNELS = (3, 32, 64, 128)
STRIDES = ((1, 2, 2), (2, 2, 2), (2, 2, 2))
FEATURES = CHANNELS[-1]  # of a clip
CLIPS_AT_ONCE = 4


@torch.no_grad()
def clip_features(clips: Tensor) -> Tensor:
    """128 numbers for each clip.

    Three 3x3x3 convolutions with zero padding, strides `STRIDES` and ReLU, without biases, then the
    mean over time and space. Weights are normal with variance 2 / fan-in (arXiv 1502.01852), drawn
    in order by Python's `Random(128).gauss`, which gives the same on every machine.

    Args:
        clips: floating point [N, 3, T, H, W], about -1 to 1.

    Returns:
        float64 [N, 128] on the CPU.

    Raises:
        UsageError: another shape or type, no clips, or values that are not finite.
    """
    if clips.ndim != 5 or clips.shape[1] != 3 or 0 in clips.shape or not clips.is_floating_point():
        found = f"{clips.dtype} {list(clips.shape)}"
        raise UsageError(f"clips are {found}: valid are floating point numbers [N, 3, T, H, W]")
    if not clips.isfinite().all():
        raise UsageError("clips hold values that are not finite")
    features = []
    for x in clips.float().clamp(-1, 1).split(CLIPS_AT_ONCE):
        for weight, stride in zip(_weights(), STRIDES, strict=True):
            x = F.conv3d(x, weight.to(x.device), stride=stride, padding=1).relu()
        features.append(x.mean((2, 3, 4)).double().cpu())
    return torch.cat(features)


@cache
def _weights() -> tuple[Tensor, ...]:
    drawn = Random(SEED)
    weights = []
    for fan, width in pairwise(CHANNELS):
        size, deviation = width * fan * 27, math.sqrt(2 / (fan * 27))
        values = [drawn.gauss(0.0, deviation) for _ in range(size)]
        weights.append(torch.tensor(values, dtype=torch.float32).view(width, fan, 3, 3, 3))
    return tuple(weights)
