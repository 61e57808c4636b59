"""What a video U-Net costs: parameters and operations by part, and the memory of a forward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from statefilm.models.flops import mixer_flops, mixer_numbers
from statefilm.models.unet.blocks import (
    ResBlock,
    SpatialAttention,
    TemporalLayer,
    TextLayer,
    width_options,
)
from statefilm.models.unet.model import TemporalSSMUNet

__all__ = ["activation_bytes", "forward_flops", "parts_of", "temporal_flops"]

TEMPORAL, REST = "temporal layers", "stem, sampling and embeddings"
_PARTS = {
    ResBlock: "ResBlocks",
    SpatialAttention: "spatial attention",
    TextLayer: "text attention",
    TemporalLayer: TEMPORAL,
}


def parts_of(model: TemporalSSMUNet) -> dict[str, int]:
    """Parameters by part; their sum is the model's."""
    counts: Counter[str] = Counter()
    for module in model.modules():
        if type(module) in _PARTS:
            counts[_PARTS[type(module)]] += _parameters(module)
    return {**counts, REST: _parameters(model) - counts.total()}


def forward_flops(
    config: Mapping[str, Any], size: tuple[int, int, int], text_tokens: int = 128
) -> dict[str, int]:
    """Operations of one forward of one clip, by part, as torch counts them; see `models.flops`.

    Args:
        config: of a `TemporalSSMUNet`.
        size: (frames, height, width).
        text_tokens: length of the text states, of a model that reads text.
    """
    with FakeTensorMode(), torch.no_grad():  # shapes only: no memory, no arithmetic
        model = TemporalSSMUNet.from_config(config)
        clip, time = torch.zeros(1, config["in_channels"], *size), torch.zeros(1)
        width = config["text_dim"]
        text = None if width is None else torch.zeros(1, text_tokens, width)
        # Fused attention is unknown to the counter; its plain form has the same cost.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(clip, time, encoder_hidden_states=text)
    by_module = counter.get_flop_counts()
    counts: Counter[str] = Counter()
    for name, module in model.named_modules():
        if type(module) in _PARTS:
            operations = by_module.get(f"{type(model).__name__}.{name}", {})
            counts[_PARTS[type(module)]] += sum(operations.values())
    return {**counts, REST: counter.get_total_flops() - counts.total()}


def temporal_flops(config: Mapping[str, Any], size: tuple[int, int, int]) -> int:
    """Operations of the temporal layers in one forward of one clip; see `models.flops`.

    Args:
        config, size: as for `forward_flops`.
    """
    (frames, height, width), patch = size, config["patch_size"]
    mixer, options = config["temporal_mixer"], config["temporal_mixer_options"] or {}
    total = 0
    for dim, level in _temporal_widths(config):
        given = width_options(mixer, dim, options)
        places = (height // patch >> level) * (width // patch >> level)
        total += places * mixer_flops(mixer, frames, dim, given)
    return total


def _temporal_widths(config: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Width of each temporal layer, and how often its level is halved."""
    widths = [config["dim"] * multiplier for multiplier in config["multipliers"]]
    finer = [config["dim"], *widths[:-1]]
    last = len(widths) - 1
    stem, middle = [(config["dim"], 0)], [(widths[-1], last)]
    down = [(dim, level) for level, dim in enumerate(widths)]
    up = [(dim, level) for level, dim in enumerate(finer)]
    return [*stem, *down, *middle, *reversed(up)]


def activation_bytes(
    config: Mapping[str, Any], size: tuple[int, int, int], itemsize: int = 4
) -> int:
    """Peak memory of one forward of one clip without gradients, beside the weights.

    The peak is in a layer at full resolution, and four maps are held beside it. The factors are
    measured on a CPU; the result is right within a factor of 2.

    Args:
        config: of a `TemporalSSMUNet`, all fields present.
        size: (frames, height, width).
        itemsize: bytes of a number in the compute dtype.
    """
    (frames, height, width), patch = size, config["patch_size"]
    dim, mixer = config["dim"], config["temporal_mixer"]
    options = width_options(mixer, dim, config["temporal_mixer_options"] or {})
    in_layer = max(
        8 * dim,
        6 * config["spatial_heads"] * config["spatial_head_dim"],
        mixer_numbers(mixer, frames, dim, options) / frames,
    )
    places = frames * (height // patch) * (width // patch)
    return itemsize * places * round(4 * dim + in_layer)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
