"""BiMamba2Mixer against two plain Mamba-2 scans, and its symmetry under reversal."""

import torch
import torch.nn.functional as F
from torch import Tensor

from statefilm.mixers import BiMamba2Mixer
from statefilm.ops import ssd


def two_scans(mixer: BiMamba2Mixer, tokens: Tensor) -> Tensor:
    """Each direction by itself, with its part of the parameters, and their sum."""
    inner, heads, head_dim = mixer.inner, mixer.heads, mixer.head_dim
    BC_dim = 2 * mixer.groups * mixer.state_dim
    z, x, BC_f, BC_b, dt_f, dt_b = mixer.in_proj(tokens).split(
        [inner, inner, BC_dim, BC_dim, heads, heads], dim=-1
    )
    kernel, bias = mixer.conv1d.weight, mixer.conv1d.bias

    def scan(direction: int, x: Tensor, BC: Tensor, dt: Tensor) -> Tensor:
        def own(parameter: Tensor) -> Tensor:
            return parameter.chunk(2)[direction]

        padded = F.pad(torch.cat([x, BC], dim=-1).mT, (kernel.shape[-1] - 1, 0))
        xBC = F.silu(F.conv1d(padded, own(kernel), own(bias), groups=inner + BC_dim)).mT
        x, B, C = xBC.split([inner, BC_dim // 2, BC_dim // 2], dim=-1)
        x = x.unflatten(-1, (heads, head_dim))
        B, C = (t.unflatten(-1, (mixer.groups, mixer.state_dim)) for t in (B, C))
        dt = F.softplus(dt + own(mixer.dt_bias))
        y = ssd(x, dt, -own(mixer.A_log).exp(), B, C, backend="reference")
        return (y + own(mixer.D)[:, None] * x).flatten(2)

    y = scan(0, x, BC_f, dt_f) + scan(1, x.flip(1), BC_b.flip(1), dt_b.flip(1)).flip(1)
    return mixer.out_proj(mixer.norm(y, z))


def scrambled(groups: int) -> BiMamba2Mixer:
    """A mixer away from its initial values, at which heads and directions look alike."""
    torch.manual_seed(0)
    mixer = BiMamba2Mixer(16, state_dim=6, head_dim=4, groups=groups)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return mixer


def test_equals_two_scans_added():
    for groups in (1, 2, 8):
        mixer = scrambled(groups)
        for length in (1, 3, 70):
            tokens = torch.randn(2, length, 16)
            torch.testing.assert_close(
                mixer(tokens), two_scans(mixer, tokens), rtol=1e-4, atol=1e-4
            )


def test_swapped_directions_mix_the_reversed_sequence():
    mixer, mirrored = scrambled(2), scrambled(2)
    inner, BC_dim, heads = mixer.inner, 2 * mixer.groups * mixer.state_dim, mixer.heads
    with torch.no_grad():
        for name in ("conv1d.weight", "conv1d.bias", "dt_bias", "A_log", "D"):
            parameter = mirrored.get_parameter(name)
            parameter.copy_(torch.cat(parameter.chunk(2)[::-1]))
        z, x, BC_f, BC_b, dt_f, dt_b = mixer.in_proj.weight.split(
            [inner, inner, BC_dim, BC_dim, heads, heads]
        )
        mirrored.in_proj.weight.copy_(torch.cat([z, x, BC_b, BC_f, dt_b, dt_f]))
    tokens = torch.randn(2, 70, 16)
    torch.testing.assert_close(
        mirrored(tokens.flip(1)).flip(1), mixer(tokens), rtol=1e-4, atol=1e-4
    )


def test_a_token_meets_itself_in_both_directions():
    """Without shift a sequence of one token passes both scans, each with its own B and C."""
    mixer = scrambled(1)
    token = torch.randn(1, 1, 16)
    before = mixer(token)
    BC_dim = 2 * mixer.groups * mixer.state_dim
    for start in (2 * mixer.inner, 2 * mixer.inner + BC_dim):
        changed = scrambled(1)
        with torch.no_grad():
            changed.in_proj.weight[start : start + BC_dim] *= 2
        assert (changed(token) - before).abs().max() > 1e-4
