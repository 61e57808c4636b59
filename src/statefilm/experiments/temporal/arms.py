"""The temporal layers that are compared, and the options that make their sizes alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from statefilm.errors import suggest
from statefilm.mixers import build_mixer
from statefilm.models.unet import published_heads
from statefilm.models.unet.blocks import width_options

Options = Mapping[str, Any]

TOLERANCE = 0.05  # of parameters, between layers that count as equally large


@dataclass(frozen=True)
class Arm:
    """A temporal mixer; options that are not given are as published, but see `published`."""

    mixer: str
    options: Options = field(default_factory=dict)


ATTENTION = "attention"

ARMS = {
    ATTENTION: Arm("temporal_attention"),
    "attention-no-bias": Arm("temporal_attention", {"relative_bias": False}),
    "self-attention": Arm("attention"),
    "linear-attention": Arm("temporal_linear_attention"),
    "gated-linear-attention": Arm("linear_attention"),
    "s4d-uni": Arm("s4d", {"bidirectional": False}),
    "s4d-bi": Arm("s4d"),
    "s6-uni": Arm("s6", {"bidirectional": False}),
    "s6-bi": Arm("s6"),
    "hydra": Arm("hydra"),
    "bimamba2": Arm("bimamba2"),
}


def choose_arms(names: Sequence[str] | None, known: Iterable[str] = ARMS) -> list[str]:
    """The arms of these names, in the order of `known`; None is all of them.

    Raises:
        UsageError: an unknown name, with the nearest known one.
    """
    known = list(known)
    for name in names or ():
        if name not in known:
            raise suggest(name, known, "arm")
    return [name for name in known if names is None or name in names]


def published(arm: Arm, base: int) -> Arm:
    """The arm in a U-Net of this base width, attention with as many heads as published for it."""
    if arm.mixer not in ("temporal_attention", "temporal_linear_attention"):
        return arm
    return Arm(arm.mixer, {"heads": published_heads(base), **arm.options})


def parameters_of(arm: Arm, widths: Sequence[int]) -> int:
    """Parameters of a mixer in temporal layers of these widths, together."""
    total = 0
    for width, times in Counter(widths).items():
        options = width_options(arm.mixer, width, dict(arm.options))
        with torch.device("meta"):
            mixer = build_mixer(arm.mixer, width, **options)
        total += times * sum(parameter.numel() for parameter in mixer.parameters())
    return total


def matched(arm: Arm, widths: Sequence[int], target: int) -> Arm | None:
    """The arm with the options, near the published ones, that bring it to `target` parameters.

    Returns:
        The nearest of the first group of `_groups` with a member within `TOLERANCE`; None where no
        option of the mixer gets there.
    """
    for group in _groups(arm.mixer):
        candidates = [Arm(arm.mixer, {**arm.options, **options}) for options in group]
        errors = [abs(parameters_of(one, widths) / target - 1) for one in candidates]
        least = min(errors)
        if least <= TOLERANCE:
            return candidates[errors.index(least)]
    return None


def _groups(mixer: str) -> Iterator[list[Options]]:
    """Options that change a mixer's size, in groups ever further from the published ones."""
    if mixer in ("temporal_attention", "temporal_linear_attention"):
        for head_dim in sorted(range(16, 129, 2), key=lambda size: abs(size - 64)):
            yield [{"heads": heads, "head_dim": head_dim} for heads in range(1, 17)]
    elif mixer == "s4d":
        yield [{"state_dim": size, "hidden_dim": size} for size in range(8, 1025, 8)]
    elif mixer == "s6":
        for state in sorted(range(4, 65, 4), key=lambda size: abs(size - 16)):
            yield [{"expand": expand, "state_dim": state} for expand in range(1, 9)]
    elif mixer in ("hydra", "bimamba2"):
        for expand in (2, 3, 1, 4, 5, 6):
            yield [{"expand": expand, "state_dim": state} for state in range(8, 129, 8)]
