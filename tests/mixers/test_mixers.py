"""What all mixers promise: one interface, both directions, stable in bfloat16."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from statefilm.mixers import MIXERS, TemporalAttentionMixer, build_mixer

DIM = 32
LENGTH = 70  # more than one chunk, not a multiple of it
SIZES = {
    "hydra": {"head_dim": 8, "state_dim": 4},
    "bimamba2": {"head_dim": 8, "state_dim": 4},
    "linear_attention": {"head_dim": 8},
    "attention": {"head_dim": 8},
    "s4d": {"state_dim": 8, "hidden_dim": 16},
    "s6": {"state_dim": 4},
    "temporal_attention": {"heads": 4, "head_dim": 8},
    "temporal_linear_attention": {"heads": 4, "head_dim": 8},
}


@pytest.fixture(params=MIXERS)
def mixer(request) -> nn.Module:
    torch.manual_seed(0)
    return build_mixer(request.param, DIM, **SIZES[request.param])


@pytest.fixture
def tokens() -> Tensor:
    return torch.randn(2, LENGTH, DIM, generator=torch.Generator().manual_seed(1))


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found.float() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("length", [1, 2, 64, 65])
def test_shape_and_dtype_are_kept(mixer, tokens, length):
    y = mixer(tokens[:, :length])
    assert y.shape == (2, length, DIM)
    assert y.dtype == torch.float32
    assert y.isfinite().all()


def test_first_and_last_token_reach_each_other(mixer, tokens):
    with torch.no_grad():
        before = mixer(tokens)
        for changed, observed in ((-1, 0), (0, -1)):
            other = tokens.clone()
            other[:, changed] += 1.0
            assert (mixer(other)[:, observed] - before[:, observed]).abs().max() > 1e-9


def test_samples_of_a_batch_do_not_meet(mixer, tokens):
    together, alone = mixer(tokens)[1:], mixer(tokens[1:])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_positions_are_ignored_without_rope(mixer, tokens):
    positions = torch.randint(0, 9, (LENGTH, 3), generator=torch.Generator().manual_seed(2))
    assert torch.equal(mixer(tokens, positions=positions), mixer(tokens))


def test_all_parameters_receive_finite_gradients(mixer, tokens):
    mixer(tokens).square().sum().backward()
    for name, parameter in mixer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_output_scale_at_initialisation(mixer, tokens):
    assert 0.01 < mixer(tokens).std() < 1.0


def autocast(mixer: nn.Module, tokens: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return mixer(tokens)


def cast(mixer: nn.Module, tokens: Tensor) -> Tensor:
    return mixer.bfloat16()(tokens.bfloat16())


@pytest.mark.parametrize("narrow", [autocast, cast])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_bfloat16_stays_near_float32(
    mixer, tokens, narrow: Callable[[nn.Module, Tensor], Tensor], scale
):
    if scale > 1 and isinstance(mixer, TemporalAttentionMixer):
        pytest.skip("its logits have no bound of their own: it stands behind a norm")
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.copy_(parameter.bfloat16())
        tokens = (scale * tokens).bfloat16().float()
        expected = mixer(tokens)
        found = narrow(mixer, tokens)
    assert found.dtype == torch.bfloat16
    assert relative_error(found, expected) < 0.02


def test_bfloat16_autocast_gradients_stay_near_float32(mixer, tokens):
    def gradients(run: Callable[[nn.Module, Tensor], Tensor]) -> dict[str, Tensor]:
        mixer.zero_grad()
        run(mixer, tokens).float().square().sum().backward()
        return {name: p.grad.clone() for name, p in mixer.named_parameters()}

    expected = gradients(lambda mixer, tokens: mixer(tokens))
    for name, gradient in gradients(autocast).items():
        assert gradient.dtype == torch.float32
        assert relative_error(gradient, expected[name]) < 0.08, name


class DtypeRecorder(TorchDispatchMode):
    """Notes what dtypes the ops reach that lose a decay, a norm or a sum when they are narrow."""

    SENSITIVE = "exp softplus cumsum rsqrt elu _softmax _fused_rms_norm cos sin".split()

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        if name in self.SENSITIVE:
            self.seen.setdefault(name, set()).add(args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("narrow", [autocast, cast])
def test_decays_and_statistics_are_float32_under_bfloat16(mixer, tokens, narrow):
    with DtypeRecorder() as recorder:
        narrow(mixer, tokens)
    assert recorder.seen
    assert set().union(*recorder.seen.values()) == {torch.float32}, recorder.seen


@pytest.mark.parametrize("narrow", [autocast, cast])
@pytest.mark.parametrize("name", ["hydra", "bimamba2"])
def test_long_memory_survives_bfloat16(name, narrow):
    """Slow steps carry tokens 500 away; a decay summed up in bfloat16 would stall."""
    torch.manual_seed(0)
    mixer = build_mixer(name, DIM, **SIZES[name])
    with torch.no_grad():
        for parameter_name, parameter in mixer.named_parameters():
            # Without the diagonal only what other tokens left is seen; softplus(-7) = 1e-3.
            if "D" in parameter_name:
                parameter.zero_()
            elif parameter_name == "dt_bias":
                parameter.fill_(-7.0)
            parameter.copy_(parameter.bfloat16())
    near, far = torch.randn(2, 1, 1, DIM, generator=torch.Generator().manual_seed(3)).bfloat16()
    sequences = [
        torch.cat([near.expand(-1, 512, -1), f.expand(-1, 512, -1)], 1) for f in (far, -far)
    ]

    def effect_on_first(run: Callable[[nn.Module, Tensor], Tensor]) -> Tensor:
        with torch.no_grad():
            one, other = (run(mixer, sequence.float())[:, :12].float() for sequence in sequences)
        return one - other

    expected = effect_on_first(lambda mixer, tokens: mixer(tokens))
    assert expected.abs().max() > 1e-2
    assert relative_error(effect_on_first(narrow), expected) < 0.03


@pytest.mark.parametrize("name", ["hydra", "bimamba2"])
def test_step_sizes_and_decays_start_in_their_range(name):
    mixer = build_mixer(name, 1024)
    dt = nn.functional.softplus(mixer.dt_bias)
    assert 0.9e-3 < dt.min() < 5e-3
    assert 3e-2 < dt.max() < 1.1e-1
    assert torch.equal(mixer.A_log, torch.zeros_like(mixer.A_log))
    assert torch.equal(mixer.D, torch.ones_like(mixer.D))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiles_without_a_graph_break(mixer, tokens):
    compiled = torch.compile(mixer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tokens), mixer(tokens), rtol=1e-5, atol=1e-6)


def test_state_dict_has_floating_tensors_only(mixer):
    assert all(tensor.is_floating_point() for tensor in mixer.state_dict().values())
    assert mixer.state_dict().keys() == dict(mixer.named_parameters()).keys()


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"'hydr'.*did you mean 'hydra'\? choose from .*hydra"):
        build_mixer("hydr", DIM)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("hydra", {"head_dim": 48}, "head_dim 48 does not divide the inner width 64"),
        ("hydra", {"head_dim": 16, "groups": 3}, "groups 3 does not divide the 4 heads"),
        ("hydra", {"head_dim": 16, "conv_kernel": 4}, "conv_kernel 4"),
        ("bimamba2", {"head_dim": 48}, "head_dim 48 does not divide the inner width 64"),
        ("bimamba2", {"head_dim": 16, "groups": 3}, "groups 3 does not divide the 4 heads"),
        ("bimamba2", {"head_dim": 16, "conv_kernel": 0}, "conv_kernel 0 is below 1"),
        ("linear_attention", {"head_dim": 24}, "head_dim 24 does not divide the width 32"),
        ("attention", {"head_dim": 24}, "head_dim 24 does not divide the width 32"),
        ("attention", {"head_dim": 8, "rope": "4d"}, "unknown rope '4d'; valid: None, 2d, 3d"),
        ("attention", {"head_dim": 4, "rope": "3d"}, "head_dim 4 cannot be rotated"),
        ("hydra", {"state_dim": "8"}, "state_dim '8' of mixer hydra: 64 is valid"),
        ("hydra", {"stat_dim": 8}, "unknown option of mixer hydra 'stat_dim': .* 'state_dim'"),
    ],
)
def test_bad_options_are_one_line_that_names_them(name, options, message):
    with pytest.raises(ValueError, match=message) as error:
        build_mixer(name, DIM, **options)
    assert "\n" not in str(error.value)
