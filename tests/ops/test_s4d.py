"""s4d: the convolution against the recurrence, the recurrence against real matrices."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from statefilm.ops import s4d
from statefilm.ops.s4d import convolution, kernel

LENGTHS = [1, 2, 63, 64, 65, 100, 257]


def draw(length: int, batch: int = 2, dim: int = 3, pairs: int = 5, seed: int = 0):
    """Random float64 inputs whose memories reach from a step to all of the sequence."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "u": normal(batch, length, dim),
        "dt": torch.exp(normal(dim) - 3),
        "A": torch.stack([-normal(dim, pairs).exp(), 30 * normal(dim, pairs)], dim=-1),
        "C": normal(dim, pairs, 2),
        "D": normal(dim),
    }


def by_recurrence(**inputs) -> Tensor:
    return s4d(**inputs, backend="reference")


def by_matrices(u, dt, A, C, D, discretisation) -> Tensor:
    """The same system in real numbers: a plane for each pair, stepped by matrix functions."""
    pairs = A.shape[1]
    outputs = []
    for channel in range(u.shape[2]):
        (re, im), (c_re, c_im) = A[channel].unbind(-1), C[channel].unbind(-1)
        M = torch.cat([torch.cat([re.diag(), -im.diag()], 1), torch.cat([im.diag(), re.diag()], 1)])
        B = torch.cat([torch.ones(pairs), torch.zeros(pairs)]).double()[:, None]
        read = 2 * torch.cat([c_re, -c_im])
        if discretisation == "zoh":
            held = torch.zeros(2 * pairs + 1, 2 * pairs + 1, dtype=torch.float64)
            held[:-1] = dt[channel] * torch.cat([M, B], 1)
            step = torch.linalg.matrix_exp(held)[:-1]
        else:
            half = dt[channel] / 2 * M
            step = torch.linalg.solve(
                torch.eye(2 * pairs) - half,
                torch.cat([torch.eye(2 * pairs) + half, dt[channel] * B], 1),
            )
        state, y = u.new_zeros(u.shape[0], 2 * pairs), []
        for u_t in u[:, :, channel].unbind(1):
            state = torch.cat([state, u_t[:, None]], 1) @ step.mT
            y.append(state @ read + D[channel] * u_t)
        outputs.append(torch.stack(y, 1))
    return torch.stack(outputs, -1)


@pytest.mark.parametrize("discretisation", ["zoh", "bilinear"])
def test_the_recurrence_samples_the_continuous_system(discretisation):
    inputs = draw(20) | {"discretisation": discretisation}
    expected = by_matrices(**inputs)
    torch.testing.assert_close(by_recurrence(**inputs), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("discretisation", ["zoh", "bilinear"])
def test_convolution_equals_the_recurrence(
    with_gradients, assert_close, uninitialized_is_nan, length, reverse, discretisation
):
    def run(backend: str):
        options = {"reverse": reverse, "discretisation": discretisation, "backend": backend}
        return with_gradients(lambda **inputs: s4d(**inputs, **options), draw(length))

    assert_close(run("convolution"), run("reference"), 1e-11)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 5e-5), (torch.bfloat16, 2e-2)], ids=str
)
def test_narrow_dtypes_stay_near_float64(
    with_gradients, assert_close, uninitialized_is_nan, length, dtype, bound
):
    inputs = {n: t if n in ("dt", "A") else t.to(dtype).double() for n, t in draw(length).items()}
    found = with_gradients(s4d, inputs, dtype)
    assert found["output 0"].dtype == dtype
    assert_close(found, with_gradients(by_recurrence, inputs), bound)


def test_float32_holds_the_phases_of_512_states_over_1000_steps(with_gradients, assert_close):
    pairs, length = 256, 1000
    generator = torch.Generator().manual_seed(0)
    lin = torch.stack([torch.full((pairs,), -0.5), math.pi * torch.arange(pairs)], dim=-1)
    inputs = {
        "u": torch.randn(1, length, 3, generator=generator),
        "dt": torch.tensor([1e-3, 1e-2, 1e-1]),
        "A": lin.expand(3, -1, -1),
        "C": torch.randn(3, pairs, 2, generator=generator),
    }
    inputs = {n: t.double() for n, t in inputs.items()}
    found = with_gradients(s4d, inputs, torch.float32)
    assert_close(found, with_gradients(s4d, inputs), 1e-4)


def test_strong_decay_is_exact_in_float32(with_gradients, assert_close):
    inputs = draw(65)
    inputs["A"] = inputs["A"] * torch.tensor([1e5, 1.0])
    found = with_gradients(s4d, inputs, torch.float32)
    assert_close(found, with_gradients(by_recurrence, inputs), 1e-5)


@given(length=st.integers(1, 140), prefix=st.integers(1, 140), seed=st.integers(0, 1000))
def test_reversal_and_prefix(length, prefix, seed):
    """Reversing both ends changes nothing, and what is yet to come never shows."""
    inputs = draw(length, seed=seed)
    y = s4d(**inputs)
    mirrored = inputs | {"u": inputs["u"].flip(1)}
    torch.testing.assert_close(s4d(**mirrored, reverse=True).flip(1), y, rtol=0, atol=1e-11)
    begun = inputs | {"u": inputs["u"][:, :prefix]}
    torch.testing.assert_close(s4d(**begun), y[:, :prefix], rtol=0, atol=1e-11)


@pytest.mark.parametrize("reverse", [False, True])
def test_slices_of_batch_and_channels_make_no_difference(
    with_gradients, assert_close, uninitialized_is_nan, monkeypatch, reverse
):
    def run():
        return with_gradients(lambda **x: s4d(**x, reverse=reverse), draw(50, batch=7, dim=5))

    whole = run()
    for module, two_at_a_time in ((convolution, 2 * 100 * 5), (kernel, 2 * 4 * 5 * 15)):
        monkeypatch.setattr(module, "budget", lambda device, numbers=two_at_a_time: numbers)
    assert_close(run(), whole, 1e-11)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that ops make."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = (t.nbytes for t in tree_leaves(out) if isinstance(t, Tensor))
        self.bytes = max(self.bytes, *made, 0)
        return out


def test_no_spectrum_of_the_whole_batch_is_made(monkeypatch):
    monkeypatch.setattr(convolution, "budget", lambda device: 4096)
    u, response = torch.randn(512, 16, 8), torch.randn(16, 8)
    for run in (
        lambda: convolution.long_convolution._init_fn(u, response, False),
        lambda: convolution._backward._init_fn(u, u, response, False),
    ):
        with Largest() as made:
            run()
        assert made.bytes <= u.nbytes


def test_no_tensor_of_channels_pairs_and_lags_is_made():
    dim, pairs, length = 16, 64, 1024
    inputs = draw(1, dim=dim, pairs=pairs)
    parameters = [inputs[name].float() for name in ("dt", "A", "C")]
    for run in (
        lambda: kernel.s4d_kernel._init_fn(*parameters, length, "zoh"),
        lambda: kernel._backward._init_fn(torch.ones(length, dim), *parameters, length, "zoh"),
    ):
        with Largest() as made:
            run()
        assert made.bytes <= 4 * 2 * dim * pairs * length / 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_for_backward_are_the_input_the_kernel_and_the_parameters(dtype):
    inputs = {n: t.float() for n, t in draw(100, batch=32, dim=8).items()}
    inputs["u"] = inputs["u"].to(dtype)
    saved = {}

    def record(tensor: Tensor) -> Tensor:
        saved[tensor.data_ptr()] = tensor.nbytes
        return tensor

    leaves = {n: t.requires_grad_() for n, t in inputs.items()}
    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        y = s4d(**leaves)
    assert sum(saved.values()) <= sum(t.nbytes for t in inputs.values()) + 4 * 100 * 8
    y.float().sum().backward()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiles_without_a_graph_break(with_gradients, assert_close):
    compiled = torch.compile(s4d, fullgraph=True, backend="aot_eager")
    assert_close(with_gradients(compiled, draw(70)), with_gradients(s4d, draw(70)), 1e-12)


def test_transform_sizes_have_small_factors_only():
    for number in range(1, 300):
        size = convolution.smooth(number)
        assert number <= size <= 1.1 * number + 1
        for factor in (2, 3, 5):
            while size % factor == 0:
                size //= factor
        assert size == 1


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("u", (2, 7)),
        ("u", (2, 0, 3)),
        ("dt", (4,)),
        ("A", (3, 5)),
        ("A", (4, 5, 2)),
        ("A", (3, 5, 3)),
        ("C", (3, 6, 2)),
        ("D", (2,)),
    ],
    ids=str,
)
def test_a_wrong_shape_is_one_line_that_names_it(name, shape):
    with pytest.raises(ValueError, match=f"s4d: {name} has shape") as error:
        s4d(**draw(7) | {name: torch.ones(shape)})
    assert "\n" not in str(error.value)
    assert str(shape) in str(error.value)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"backend": "convolute"}, r"'convolute'; valid: auto, convolution, reference"),
        ({"discretisation": "bilinar"}, r"discretisation 'bilinar': did you mean 'bilinear'\?"),
    ],
    ids=str,
)
def test_an_unknown_name_is_one_line_with_the_valid_ones(option, message):
    with pytest.raises(ValueError, match=message) as error:
        s4d(**draw(7), **option)
    assert "\n" not in str(error.value)
