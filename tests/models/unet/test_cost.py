"""The U-Net's parts, operations and memory against what torch counts."""

import pytest
import torch

from statefilm.evaluation.speed.memory import peak_bytes
from statefilm.mixers import MIXERS
from statefilm.models import TemporalSSMUNet, build, temporal_parameters
from statefilm.models.unet.cost import (
    TEMPORAL,
    activation_bytes,
    forward_flops,
    parts_of,
    temporal_flops,
)


def test_parts_add_up():
    with torch.device("meta"):
        model = build("unet_tiny", text_dim=16, num_classes=3)
    parts = parts_of(model)
    assert sum(parts.values()) == sum(p.numel() for p in model.parameters())
    assert parts[TEMPORAL] == temporal_parameters(model)
    assert len(parts) == 5 and min(parts.values()) > 0


@pytest.mark.parametrize("patch", [1, 4])
@pytest.mark.parametrize("mixer", ["temporal_attention", "hydra", "s6"])
def test_temporal_operations_are_those_that_torch_counts(mixer, patch):
    with torch.device("meta"):
        config = build("unet_tiny", temporal_mixer=mixer, patch_size=patch).config
    size = (64, 16 * patch, 8 * patch)
    counted = forward_flops(config, size)
    # Torch also counts the depthwise convolutions.
    assert temporal_flops(config, size) == pytest.approx(counted[TEMPORAL], rel=0.08)


def test_all_but_time_grows_with_the_frames():
    config = TemporalSSMUNet(
        dim=8, multipliers=(1, 2), groups=4, temporal_mixer="attention", text_dim=8
    ).config
    short, long = (forward_flops(config, (frames, 8, 8), 5) for frames in (8, 32))
    assert short.keys() == long.keys()
    assert long[TEMPORAL] > 4 * short[TEMPORAL]
    for part in ("ResBlocks", "spatial attention"):
        assert long[part] == pytest.approx(4 * short[part], rel=0.01)


@pytest.mark.parametrize("patch", [1, 4])
@pytest.mark.parametrize("mixer", MIXERS)
def test_memory_is_near_the_allocators_peak(mixer, patch):
    model = TemporalSSMUNet(
        dim=32, multipliers=(1, 2), spatial_heads=4, temporal_mixer=mixer, patch_size=patch
    ).requires_grad_(False)
    size = (16, 8 * patch, 8 * patch)
    clip, time = torch.zeros(1, 3, *size), torch.zeros(1)
    peak = peak_bytes(lambda: model(clip, time), torch.device("cpu"))
    assert 1 / 2 < activation_bytes(model.config, size) / peak < 2
