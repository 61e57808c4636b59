"""Exact bytes that a forward keeps for its backward, and the number of frames where they cross.

They are counted on fake tensors, which have shapes and storages but no memory: any size costs
the same, and the counts are those of a real run on the same device.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef

from statefilm.experiments.temporal.arms import Arm
from statefilm.experiments.temporal.subjects import Subject

Count = Callable[[int], int]


def saved_bytes(module: nn.Module, forward: Callable[[], object]) -> int:
    """Distinct storage that `forward()` keeps for its backward, the module's weights left out."""
    weights = {StorageWeakRef(weight.untyped_storage()) for weight in module.parameters()}
    kept: dict[StorageWeakRef, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = StorageWeakRef(tensor.untyped_storage())
        if storage not in weights:
            kept[storage] = tensor  # held, so that no later storage takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def counter(subject: Subject, arm: Arm, device: torch.device) -> Count:
    """`saved_bytes` of a subject's training forward, by its number of frames."""
    mode = FakeTensorMode()
    with mode:
        module = subject.build(arm, device)

    @cache
    def count(frames: int) -> int:
        with mode:
            inputs = subject.inputs(frames, device)
            return saved_bytes(module, lambda: subject.forward(module, inputs))

    return count


def growth(count: Count, first: int, last: int) -> float:
    """How far bytes a frame are from constant: 0 is linear growth.

    Returns:
        The largest difference from those at `last` frames, as a part of them, over the numbers of
        frames that double from `first` on.
    """
    per_frame = count(last) / last
    frames = first
    worst = 0.0
    while frames < last:
        worst = max(worst, abs(count(frames) / frames / per_frame - 1))
        frames *= 2
    return worst


def crossing(larger: Count, smaller: Count, limit: int) -> int | None:
    """The fewest frames at which `larger` needs more bytes than `smaller`, up to `limit`.

    Found by doubling the frames until it does, and by halving what lies between; None where it
    does not.
    """
    low, high = 0, 1
    while high <= limit and larger(high) <= smaller(high):
        low, high = high, 2 * high
    if high > limit:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if larger(middle) > smaller(middle):
            high = middle
        else:
            low = middle
    return high
