"""HydraMixer: the published layer's parameters and, restated with flips and rolls, its function."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from statefilm.mixers import HydraMixer
from statefilm.ops import ssd


def published_layer(weights: dict[str, Tensor], u: Tensor, head_dim: int, groups: int) -> Tensor:
    """The layer as published: directions stacked on the batch axis, flipped, rolled and added."""
    batch, length, _ = u.shape
    heads = weights["A_log"].numel()
    inner = heads * head_dim
    BC_dim = weights["conv1d.weight"].shape[0] - inner
    state = BC_dim // (4 * groups)

    z, xBC, dt = (u @ weights["in_proj.weight"].T).split([inner, inner + BC_dim, 2 * heads], -1)
    kernel = weights["conv1d.weight"]
    xBC = F.conv1d(
        xBC.mT, kernel, weights["conv1d.bias"], padding=kernel.shape[-1] // 2, groups=len(kernel)
    )
    x, BC = F.silu(xBC).mT.split([inner, BC_dim], -1)

    def both_ways(forward: Tensor, backward: Tensor) -> Tensor:
        return torch.cat([forward, torch.flip(backward, (1,))])

    B, C = both_ways(*BC.chunk(2, -1)).chunk(2, -1)
    dt = F.softplus(both_ways(*dt.chunk(2, -1)) + weights["dt_bias"])
    y = ssd(
        both_ways(x, x).reshape(2 * batch, length, heads, head_dim),
        dt,
        -torch.exp(weights["A_log"]),
        B.reshape(2 * batch, length, groups, state),
        C.reshape(2 * batch, length, groups, state),
        backend="reference",
    )
    y = torch.roll(y.reshape(2 * batch, length, inner), 1, 1)
    y[:, 0] = 0
    y = y[:batch] + torch.flip(y[batch:], (1,))
    diagonal = F.linear(x, weights["fc_D.weight"], weights["D"])
    y = y + x * diagonal.repeat_interleave(head_dim, -1)
    y = y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weights["norm.weight"] * F.silu(z)
    return y @ weights["out_proj.weight"].T


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("length", [1, 5, 70])
def test_equals_the_published_layer_in_outputs_and_gradients(length, groups):
    torch.manual_seed(0)
    head_dim = 4
    mixer = HydraMixer(16, state_dim=6, head_dim=head_dim, groups=groups, conv_kernel=5)
    # Away from the initial values, which would hide a parameter read at the wrong place.
    weights = {n: p + 0.3 * torch.randn_like(p) for n, p in mixer.state_dict().items()}
    mixer.load_state_dict(weights)
    tokens = torch.randn(3, length, 16)

    def outputs_and_gradients(run, parameters):
        inputs = [tokens.clone().requires_grad_(), *parameters]
        y = run(inputs[0])
        mix = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        return y, torch.autograd.grad((y * mix).sum(), inputs, materialize_grads=True)

    leaves = {n: w.requires_grad_() for n, w in weights.items()}
    expected = outputs_and_gradients(
        lambda u: published_layer(leaves, u, head_dim, groups), leaves.values()
    )
    named = dict(mixer.named_parameters())
    found = outputs_and_gradients(mixer, [named[n] for n in leaves])
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-4)


def test_names_and_shapes_are_those_of_the_published_layer():
    with torch.device("meta"):
        mixer = HydraMixer(768)
    assert {n: tuple(p.shape) for n, p in mixer.state_dict().items()} == {
        "in_proj.weight": (2 * 1536 + 4 * 64 + 2 * 24, 768),
        "conv1d.weight": (1536 + 4 * 64, 1, 7),
        "conv1d.bias": (1536 + 4 * 64,),
        "dt_bias": (24,),
        "A_log": (24,),
        "D": (24,),
        "fc_D.weight": (24, 1536),
        "norm.weight": (1536,),
        "out_proj.weight": (768, 1536),
    }


@pytest.mark.parametrize(("dim", "millions"), [(768, 3.83), (3072, 58.6)])
def test_size_is_that_of_the_published_layer(dim, millions):
    with torch.device("meta"):
        mixer = HydraMixer(dim)
    count = sum(p.numel() for p in mixer.parameters()) / 1e6
    assert count == pytest.approx(millions, rel=2e-3)
