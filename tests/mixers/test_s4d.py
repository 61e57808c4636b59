"""S4DMixer against its definition, its symmetry under reversal, and its causal form."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statefilm.mixers import S4DMixer, build_mixer
from statefilm.ops import s4d

DIM = 8


def scrambled(**options) -> S4DMixer:
    """A mixer away from its initial values, at which directions and channels look alike."""
    torch.manual_seed(0)
    mixer = S4DMixer(DIM, state_dim=6, hidden_dim=12, **options)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return mixer


def definition(mixer: S4DMixer, tokens: Tensor) -> Tensor:
    """Each direction by itself over a sequence in its own order, and the sum of both."""

    def direction(way: int, u: Tensor) -> Tensor:
        space, linear = mixer.s4d[way], mixer.glu[way]
        A = torch.stack([-space.log_A_real.exp(), space.A_imag], dim=-1)
        y = s4d(u, space.log_dt.exp(), A, space.C, space.D, backend="reference")
        value, gate = linear(F.gelu(y)).chunk(2, dim=-1)
        return value * gate.sigmoid()

    y = direction(0, tokens)
    if len(mixer.s4d) == 2:
        y = y + direction(1, tokens.flip(1)).flip(1)
    first, _, last = mixer.mlp
    return last(F.gelu(first(y)))


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("length", [1, 2, 70])
def test_equals_its_definition_in_outputs_and_gradients(bidirectional, length):
    mixer = scrambled(bidirectional=bidirectional)
    tokens = torch.randn(3, length, DIM)

    def outputs_and_gradients(y: Tensor) -> tuple[Tensor, ...]:
        mix = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        return y, *torch.autograd.grad((y * mix).sum(), list(mixer.parameters()))

    found = outputs_and_gradients(mixer(tokens))
    expected = outputs_and_gradients(definition(mixer, tokens))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_swapped_directions_mix_the_reversed_sequence():
    mixer, mirrored = scrambled(), scrambled()
    mirrored.s4d = nn.ModuleList(reversed(mirrored.s4d))
    mirrored.glu = nn.ModuleList(reversed(mirrored.glu))
    tokens = torch.randn(2, 70, DIM)
    torch.testing.assert_close(mirrored(tokens.flip(1)).flip(1), mixer(tokens))


@pytest.mark.parametrize("bidirectional", [True, False])
def test_one_direction_is_causal_and_two_are_not(bidirectional):
    mixer = scrambled(bidirectional=bidirectional).double()
    tokens = torch.randn(2, 70, DIM, dtype=torch.float64)
    changed = tokens.clone()
    changed[:, 40] += 1
    moved = (mixer(changed) - mixer(tokens)).abs().amax((0, 2))
    assert (moved[40:] > 1e-9).all()
    assert (moved[:40] < 1e-12).all() != bidirectional
    assert (moved[:40] > 1e-9).all() == bidirectional


@pytest.mark.parametrize("bidirectional", [True, False])
def test_parameter_count(bidirectional):
    dim, state, hidden = 112, 512, 512
    with torch.device("meta"):
        mixer = S4DMixer(dim, bidirectional=bidirectional)
    space = dim * (2 + state // 2 * 4)  # dt and D; A and C, complex
    glu = dim * 2 * dim + 2 * dim
    mlp = dim * hidden + hidden + hidden * dim + dim
    expected = (2 if bidirectional else 1) * (space + glu) + mlp
    assert sum(p.numel() for p in mixer.parameters()) == expected


def test_starts_as_s4d_lin():
    mixer = S4DMixer(1024, state_dim=16, dt_min=1e-3, dt_max=1e-1)
    for space in mixer.s4d:
        torch.testing.assert_close(-space.log_A_real.exp(), torch.full((1024, 8), -0.5))
        torch.testing.assert_close(space.A_imag, math.pi * torch.arange(8).expand(1024, 8))
        dt = space.log_dt.exp()
        assert 0.999e-3 < dt.min() < 1.2e-3
        assert 0.8e-1 < dt.max() < 1.001e-1
        assert space.C.square().sum(-1).mean().item() == pytest.approx(1, rel=0.1)
    assert not torch.equal(mixer.s4d[0].log_dt, mixer.s4d[1].log_dt)


def test_only_what_belongs_to_linear_layers_is_a_weight_to_decay():
    mixer = S4DMixer(DIM, state_dim=6, hidden_dim=12)
    linear = [m for m in mixer.modules() if isinstance(m, nn.Linear)]
    decayed = {id(module.weight) for module in linear}
    spaces = {id(p) for p in mixer.s4d.parameters()}
    assert len(decayed) == 4 and not decayed & spaces
    assert not any(isinstance(m, nn.Linear) for m in mixer.s4d.modules())


def test_state_spaces_can_stay_float32_in_a_bfloat16_mixer():
    mixer = scrambled()
    with torch.no_grad():
        for parameter in [*mixer.glu.parameters(), *mixer.mlp.parameters()]:
            parameter.copy_(parameter.bfloat16())
        tokens = torch.randn(2, 70, DIM).bfloat16()
        expected = mixer(tokens.float())
        mixer.glu.bfloat16(), mixer.mlp.bfloat16()
        found = mixer(tokens)
    assert found.dtype == torch.bfloat16
    assert (found - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state_dim": 7}, "state_dim 7 is not even"),
        ({"state_dim": 0}, "state_dim 0 is not even and at least 2"),
        ({"hidden_dim": 0}, "hidden_dim 0 is below 1"),
        ({"dt_min": 0.0}, r"dt_min 0.0 and dt_max 0.1 are not 0 < dt_min <= dt_max"),
        ({"dt_min": 1.0}, r"dt_min 1.0 and dt_max 0.1 are not"),
    ],
    ids=str,
)
def test_bad_options_are_one_line_that_names_them(options, message):
    with pytest.raises(ValueError, match=message) as error:
        build_mixer("s4d", DIM, **options)
    assert "\n" not in str(error.value)
