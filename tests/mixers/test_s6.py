"""S6Mixer against two plain Mamba scans, its parameters, its causal form and its symmetry."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from statefilm.mixers import S6Mixer
from statefilm.ops import selective_scan


def one_way(direction: torch.nn.Module, x: Tensor) -> Tensor:
    """Mamba's inner block as published, first token to last, with the reference scan."""
    kernel, bias = direction.conv1d.weight, direction.conv1d.bias
    rank, state = direction.dt_proj.in_features, direction.A_log.shape[1]
    if direction.reverse:
        kernel = kernel.flip(-1)
    padded = F.pad(x.mT, (kernel.shape[-1] - 1, 0))
    x = F.silu(F.conv1d(padded, kernel, bias, groups=x.shape[-1])).mT
    dt, B, C = (x @ direction.x_proj.weight.T).split([rank, state, state], dim=-1)
    dt = F.softplus(dt @ direction.dt_proj.weight.T + direction.dt_bias)
    return selective_scan(x, dt, -direction.A_log.exp(), B, C, direction.D, backend="reference")


def published(mixer: S6Mixer, tokens: Tensor) -> Tensor:
    """Each direction by itself, the second on the flipped sequence, each gated, and their sum."""
    x, gate = (tokens @ mixer.in_proj.weight.T).chunk(2, dim=-1)
    y = one_way(mixer.directions[0], x) * F.silu(gate)
    if mixer.bidirectional:
        y = y + one_way(mixer.directions[1], x.flip(1)).flip(1) * F.silu(gate)
    return y @ mixer.out_proj.weight.T


def scrambled(**options) -> S6Mixer:
    """A mixer away from its initial values, at which channels and directions look alike."""
    torch.manual_seed(0)
    mixer = S6Mixer(12, **{"state_dim": 5, "dt_rank": 3} | options)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return mixer


@pytest.mark.parametrize("options", [{}, {"bidirectional": False}, {"conv_kernel": 1}], ids=str)
@pytest.mark.parametrize("length", [1, 3, 70])
def test_equals_the_published_form_in_outputs_and_gradients(options, length):
    mixer = scrambled(**options)
    tokens = torch.randn(2, length, 12, requires_grad=True)
    mix = torch.randn(2, length, 12)
    leaves = [tokens, *mixer.parameters()]
    results = []
    for run in (mixer, lambda tokens: published(mixer, tokens)):
        y = run(tokens)
        results.append([y, *torch.autograd.grad((y * mix).sum(), leaves)])
    torch.testing.assert_close(results[0], results[1], rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(
    ("dim", "options"), [(16, {}), (20, {"state_dim": 4, "expand": 3, "conv_kernel": 3})]
)
def test_the_number_of_parameters(dim, options, bidirectional):
    mixer = S6Mixer(dim, **options, bidirectional=bidirectional)
    inner, state = options.get("expand", 2) * dim, options.get("state_dim", 16)
    kernel, rank = options.get("conv_kernel", 4), math.ceil(inner / 16)
    direction = inner * (kernel + 1) + inner * (rank + 2 * state) + (rank + 1) * inner
    direction += inner * state + inner
    expected = 3 * dim * inner + (1 + bidirectional) * direction
    assert sum(p.numel() for p in mixer.parameters()) == expected


def test_starts_as_mamba_does():
    mixer = S6Mixer(512)
    for direction in mixer.directions:
        dt = F.softplus(direction.dt_bias)
        assert 0.9e-3 < dt.min() < 2e-3
        assert 6e-2 < dt.max() < 1.1e-1
        torch.testing.assert_close(direction.A_log.exp(), torch.arange(1.0, 17).expand(1024, 16))
        assert direction.D.eq(1).all()
        assert direction.dt_proj.weight.abs().max() <= 64**-0.5
        assert direction.dt_proj.weight.abs().max() > 0.99 * 64**-0.5
    first, second = mixer.directions
    assert not torch.equal(first.dt_bias, second.dt_bias)


def test_one_direction_is_causal_and_two_are_not():
    tokens = torch.randn(1, 70, 12)
    other = tokens.clone()
    other[:, 40] += 1.0
    for bidirectional in (False, True):
        mixer = scrambled(bidirectional=bidirectional)
        changed = (mixer(tokens) - mixer(other)).abs().amax(-1)[0] > 1e-6
        assert changed[40:44].all()
        assert changed[:40].any() == bidirectional


def test_swapped_directions_mix_the_reversed_sequence():
    mixer, mirrored = scrambled(), scrambled()
    first, second = mixer.directions
    with torch.no_grad():
        for target, source in zip(mirrored.directions, (second, first), strict=True):
            target.load_state_dict(source.state_dict())
            target.conv1d.weight.copy_(source.conv1d.weight.flip(-1))
    tokens = torch.randn(2, 70, 12)
    torch.testing.assert_close(
        mirrored(tokens.flip(1)).flip(1), mixer(tokens), rtol=1e-4, atol=1e-5
    )


def test_a_thousand_tokens_in_bfloat16_stay_near_float32():
    """With steps of 1e-3 a token is remembered to the end; a narrow decay would forget it."""
    mixer = scrambled()
    with torch.no_grad():
        for direction in mixer.directions:
            direction.dt_bias.fill_(-7.0)
        for parameter in mixer.parameters():
            parameter.copy_(parameter.bfloat16())
        tokens = torch.randn(1, 1000, 12).bfloat16().float()
        expected = mixer(tokens)
        with torch.autocast("cpu", torch.bfloat16):
            found = mixer(tokens)
        cast = mixer.bfloat16()(tokens.bfloat16())
    for narrow in (found, cast):
        assert (narrow.float() - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize(
    "options", [{"state_dim": 0}, {"expand": 0}, {"conv_kernel": 0}, {"dt_rank": -1}], ids=str
)
def test_a_size_below_one_is_one_line_that_names_it(options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"^{name} {value} is below 1$"):
        S6Mixer(16, **options)
