"""The config's arithmetic against what torch counts in a real forward of the same size."""

from itertools import accumulate

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from statefilm.mixers import MIXERS
from statefilm.models import build
from statefilm.models.flops import activation_bytes, forward_flops, token_grid
from statefilm.ops.quasiseparable.core import forward_flops as quasiseparable_flops
from statefilm.ops.ssd.chunked import forward_flops as ssd_flops

TEXT_TOKENS = 24
EVERY_MIXER = [{"mixer": mixer, "image_scan": "H", "video_scan": "H"} for mixer in MIXERS]
GROUPED = {"hydra": {"groups": 2, "state_dim": 16}, "bimamba2": {"groups": 2, "head_dim": 32}}


@pytest.mark.parametrize("count", [quasiseparable_flops, ssd_flops])
def test_a_last_chunk_counts_for_what_it_holds(count):
    shape = {"batch": 2, "heads": 3, "head_dim": 8, "groups": 1, "state": 4}
    one, tail, both = (count(length=length, **shape) for length in (64, 8, 72))
    carried = both - one - tail  # between the two chunks, in proportion to the length
    assert 0 < carried == 72 * (count(length=128, **shape) - 2 * one) // 128
    assert both < count(length=128, **shape)


@pytest.mark.parametrize(
    ("preset", "size", "overrides"),
    [
        ("hth_tiny", (1, 64, 64), {}),
        ("hth_tiny", (17, 64, 64), {}),
        ("hth_tiny", (1, 72, 160), {"conditioning": "add", "patch_embed": "plain"}),
        ("dit_tiny", (17, 64, 64), {}),
        ("hth_300m", (5, 32, 48), {}),
        ("hth_tiny", (5, 64, 64), {"plan": EVERY_MIXER, "mixer_options": GROUPED}),
        ("hth_tiny", (5, 64, 64), {"text_prefix": 32, "registers": 3}),
        ("dit_tiny", (1, 64, 64), {"text_prefix": 20, "cross_attention": "none"}),
    ],
)
def test_equals_torchs_count(preset, size, overrides):
    with FakeTensorMode(), torch.no_grad():  # shapes only: no memory, no arithmetic
        model = build(preset, **overrides)
        latents = torch.zeros(1, model.config.in_channels, *size)
        text = torch.zeros(1, TEXT_TOKENS, model.config.text_dim)
        # The fused attention of CPUs is unknown to the counter; its plain form has the same cost.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(latents, torch.zeros(1), text)
    parts = forward_flops(model.config, size, TEXT_TOKENS)
    assert sum(parts.values()) == pytest.approx(counter.get_total_flops(), rel=0.01)
    expected = {block["mixer"] for block in model.config.plan}
    expected |= {"feed-forward", "patches", "timestep"}
    expected |= {"cross-attention"} if model.config.cross_attention != "none" else set()
    assert set(parts) == expected | ({"text prefix"} if model.config.text_prefix else set())


def test_attention_is_quadratic_and_hydra_linear():
    with torch.device("meta"):
        config = build("hth_300m").config
    small, large = (forward_flops(config, (1, side, side)) for side in (128, 256))
    assert large["hydra"] == 4 * small["hydra"]
    assert large["attention"] > 6 * small["attention"]


@pytest.mark.parametrize(
    ("preset", "size", "overrides"),
    [
        ("hth_tiny", (1, 128, 128), {}),
        ("hth_tiny", (9, 64, 64), {}),
        ("dit_tiny", (5, 64, 64), {}),
        *(("hth_300m", (1, 64, 64), {"dim": 128, "plan": [block]}) for block in EVERY_MIXER),
    ],
)
def test_memory_is_near_the_allocators_peak(preset, size, overrides):
    model = build(preset, **overrides)
    latents = torch.zeros(1, model.config.in_channels, *size)
    text = torch.zeros(1, TEXT_TOKENS, model.config.text_dim)
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        model(latents, torch.zeros(1), text)
    events = sorted(seen.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    peak = max(accumulate(event.nbytes() for event in events if event.name() == "[memory]"))
    assert 1 / 1.5 < activation_bytes(model.config, size) / peak < 1.5


def test_token_grid():
    config = {"patch_size": (4, 8, 8)}
    assert token_grid(config, (17, 64, 128)) == (5, 8, 16)
    for size in [(16, 64, 64), (17, 63, 64), (17, 64, 60), (0, 64, 64)]:
        with pytest.raises(ValueError, match="do not divide"):
            token_grid(config, size)
