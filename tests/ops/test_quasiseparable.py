"""quasiseparable: its forms against three independent statements of the same matrix."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.utils.flop_counter import FlopCounterMode

from statefilm.ops import quasiseparable, ssd
from statefilm.ops.quasiseparable.chunked import forward

LENGTHS = [1, 2, 63, 64, 65, 100, 257]


def semiseparable_matrix(dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The causal scan of one direction as matrices [batch, heads, length, length]."""
    batch, length, heads = dt.shape
    decay = torch.exp(dt * A)
    row = dt.new_zeros(batch, heads, length)
    rows = []
    for i in range(length):
        # One token later every earlier source has decayed once more, and token i joins.
        row = row * decay[:, i, :, None] + torch.nn.functional.one_hot(torch.tensor(i), length)
        rows.append(row)
    B, C = (t.repeat_interleave(heads // t.shape[2], dim=2) for t in (B, C))
    scores = torch.einsum("bihn,bjhn->bhij", C, B)
    return scores * torch.stack(rows, dim=2) * dt.transpose(1, 2)[:, :, None, :]


def quasiseparable_matrix(dt, A, B, C, D=None) -> Tensor:
    """The matrix of the op, [batch, heads, length, length]."""

    def strictly_lower(dt, B, C):
        shifted = semiseparable_matrix(dt, A, B, C)[:, :, :-1]
        return torch.nn.functional.pad(shifted, (0, 0, 1, 0))

    lower = strictly_lower(dt[:, :, 0], B[:, :, 0], C[:, :, 0])
    upper = strictly_lower(*(t[:, :, 1].flip(1) for t in (dt, B, C))).flip(2, 3)
    if D is None:
        return lower + upper
    diagonal = D.expand(dt.shape[0], dt.shape[1], -1)
    return lower + upper + torch.diag_embed(diagonal.transpose(1, 2))


def by_matrix(x, dt, A, B, C, D=None) -> Tensor:
    return torch.einsum("bhij,bjhp->bihp", quasiseparable_matrix(dt, A, B, C, D), x)


def by_shift_and_flip(x, dt, A, B, C, D=None) -> Tensor:
    def shift(y):
        return torch.cat([torch.zeros_like(y[:, :1]), y[:, :-1]], dim=1)

    forward = shift(ssd(x, dt[:, :, 0], A, B[:, :, 0], C[:, :, 0]))
    dt_b, B_b, C_b = (t[:, :, 1].flip(1) for t in (dt, B, C))
    y = forward + shift(ssd(x.flip(1), dt_b, A, B_b, C_b)).flip(1)
    return y if D is None else y + D[..., None] * x


def by_reference(**inputs) -> Tensor:
    return quasiseparable(**inputs, backend="reference")


def with_diagonal(inputs: dict[str, Tensor], form: str) -> dict[str, Tensor]:
    batch, length, heads = inputs["x"].shape[:3]
    shape = {"heads": (heads,), "tokens": (batch, length, heads)}.get(form)
    if shape is None:
        return inputs
    generator = torch.Generator().manual_seed(2)
    return inputs | {"D": torch.randn(shape, generator=generator, dtype=torch.float64)}


@pytest.mark.parametrize("statement", [by_reference, by_matrix, by_shift_and_flip])
@pytest.mark.parametrize("length", LENGTHS)
def test_chunked_equals_each_statement_in_outputs_and_gradients(
    draw, with_gradients, assert_close, statement, length
):
    inputs = with_diagonal(draw(length, 2), "tokens")
    found = with_gradients(quasiseparable, inputs)
    assert_close(found, with_gradients(statement, inputs), 1e-10)


@pytest.mark.parametrize("form", ["none", "heads", "tokens"])
@pytest.mark.parametrize(
    "shape",
    [
        {"batch": 1, "heads": 1, "groups": 1, "head_dim": 1, "state": 1},
        {"batch": 3, "heads": 4, "groups": 1, "head_dim": 8, "state": 2},
        {"batch": 1, "heads": 6, "groups": 2, "head_dim": 3, "state": 16},
        {"batch": 2, "heads": 4, "groups": 4, "head_dim": 2, "state": 5},
    ],
    ids=str,
)
def test_shapes_and_diagonals(draw, with_gradients, assert_close, shape, form):
    inputs = with_diagonal(draw(70, 2, **shape), form)
    assert_close(with_gradients(quasiseparable, inputs), with_gradients(by_matrix, inputs), 1e-10)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)], ids=str
)
def test_narrow_dtypes_stay_near_float64(
    draw, with_gradients, assert_close, uninitialized_is_nan, length, dtype, bound
):
    inputs = with_diagonal(draw(length, 2), "tokens")
    # Rounded first, so that the error of the inputs is not counted as one of the op.
    inputs = {n: t if n in ("dt", "A") else t.to(dtype).double() for n, t in inputs.items()}
    found = with_gradients(quasiseparable, inputs, dtype)
    assert found["output 0"].dtype == dtype
    assert_close(found, with_gradients(by_reference, inputs), bound)


@pytest.mark.parametrize("length", [1, 64, 100])
def test_every_element_is_written(draw, with_gradients, assert_close, uninitialized_is_nan, length):
    inputs = with_diagonal(draw(length, 2), "heads")
    found = with_gradients(quasiseparable, inputs)
    assert_close(found, with_gradients(by_reference, inputs), 1e-10)


def test_reference_gradients_are_those_of_finite_differences(draw):
    inputs = with_diagonal(draw(4, 2, batch=1, heads=2, head_dim=2, groups=1, state=2), "tokens")
    leaves = tuple(t.requires_grad_() for t in inputs.values())

    def op(*tensors: Tensor) -> Tensor:
        return quasiseparable(*tensors, backend="reference")

    assert torch.autograd.gradcheck(op, leaves)


@settings(deadline=None, max_examples=25)
@given(length=st.integers(1, 150), seed=st.integers(0, 1000))
def test_reversed_sequence_with_swapped_directions_gives_the_reversed_output(length, seed):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, A, D = normal(1, length, 2, 3), -normal(2).exp(), normal(1, length, 2)
    dt = normal(1, length, 2, 2).exp()
    B, C = normal(1, length, 2, 1, 4), normal(1, length, 2, 1, 4)
    mirrored = quasiseparable(
        x.flip(1), dt.flip(1, 2), A, B.flip(1, 2), C.flip(1, 2), D.flip(1)
    ).flip(1)
    torch.testing.assert_close(mirrored, quasiseparable(x, dt, A, B, C, D), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 3e-4), (torch.bfloat16, 2e-2)], ids=str
)
def test_strong_decay_leaves_only_the_neighbours(draw, with_gradients, assert_close, dtype, bound):
    inputs = with_diagonal(draw(130, 2, heads=2), "tokens")
    inputs = {n: t if n == "dt" else t.to(dtype).double() for n, t in inputs.items()}
    inputs |= {"A": torch.full((2,), -1e4), "dt": inputs["dt"] + 1}

    def by_neighbours(x, dt, A, B, C, D) -> Tensor:
        left = dt[..., None] * x[:, :, None] * (B * C).sum(-1)[..., None] + 0 * A[:, None]
        from_before, from_after = left[:, :-1, 0], left[:, 1:, 1]
        pad = torch.nn.functional.pad
        return (
            pad(from_before, (0, 0, 0, 0, 1, 0))
            + pad(from_after, (0, 0, 0, 0, 0, 1))
            + D[..., None] * x
        )

    found = with_gradients(quasiseparable, inputs, dtype)
    assert_close(found, with_gradients(by_neighbours, inputs), bound)


def test_weak_decay_after_strong_decay_keeps_its_precision(draw, with_gradients, assert_close):
    inputs = draw(128, 2)
    inputs["A"] = torch.full((4,), -1.0, dtype=torch.float64)
    inputs["dt"] = torch.full_like(inputs["dt"], 1e-2)
    inputs["dt"][:, 3:40] = 100.0
    found = with_gradients(quasiseparable, inputs, torch.float32)
    assert_close(found, with_gradients(by_reference, inputs), 3e-4)


def test_vanishing_steps_and_no_decay_are_finite(draw, with_gradients):
    inputs = draw(70, 2)
    inputs["dt"][:, ::2] = 0.0
    inputs["dt"][:, 1::4] = 1e-30
    found = with_gradients(quasiseparable, inputs, torch.float32)
    assert all(t.isfinite().all() for t in found.values())


def test_long_bfloat16_sequence_is_finite_and_near_float32(draw):
    inputs = draw(8192, 2, batch=1, heads=2, groups=1, head_dim=8, state=8)
    inputs["dt"] = inputs["dt"] * 1e-2
    wide = {n: t.float() for n, t in inputs.items()}
    narrow = {n: t if n in ("dt", "A") else t.bfloat16() for n, t in wide.items()}
    expected, found = quasiseparable(**wide), quasiseparable(**narrow)
    assert found.isfinite().all()
    assert (found.float() - expected).norm() <= 2e-2 * expected.norm()


def test_backward_work_is_linear_in_the_length(draw, elements_written_backward):
    def work(length: int) -> int:
        inputs = draw(length, 2, batch=1, heads=1, groups=1, head_dim=16, state=16)
        leaves = {n: t.requires_grad_() for n, t in inputs.items()}
        return elements_written_backward(quasiseparable(**leaves).sum())

    assert work(16384) <= 8.5 * work(2048)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiles_without_a_graph_break(draw, with_gradients, assert_close):
    inputs = with_diagonal(draw(70, 2), "tokens")
    compiled = torch.compile(quasiseparable, fullgraph=True, backend="aot_eager")
    assert_close(with_gradients(compiled, inputs), with_gradients(quasiseparable, inputs), 1e-12)


def test_three_lengths_compile_twice(draw):
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(quasiseparable, fullgraph=True, backend=counter)
    for length in (65, 200, 700):
        inputs = draw(length, 2)
        torch.testing.assert_close(compiled(**inputs), quasiseparable(**inputs))
    assert counter.frame_count == 2


def test_nothing_but_the_inputs_is_kept_for_the_backward(draw):
    inputs = {n: t.requires_grad_() for n, t in draw(1000, 2).items()}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()), lambda t: t):
        quasiseparable(**inputs)
    assert sum(kept) <= 3 * sum(t.numel() for t in inputs.values())


@pytest.mark.parametrize("length", [40, 192])  # whole chunks: others are filled up
def test_flops_are_those_of_the_products(draw, length):
    inputs = draw(length, 2)
    a = inputs["dt"] * inputs.pop("A")
    with FlopCounterMode(display=False) as products:
        forward(a=a, D=None, **inputs)
    with FlopCounterMode(display=False) as op:
        torch.ops.statefilm.quasiseparable_chunked(a=a, D=None, **inputs)
    assert op.get_total_flops() == products.get_total_flops() > 0


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("x", (2, 7, 20)),
        ("x", (2, 0, 4, 5)),
        ("dt", (2, 7, 4)),
        ("dt", (2, 7, 1, 4)),
        ("A", (5,)),
        ("B", (2, 7, 2, 3, 3)),
        ("B", (2, 7, 2, 3)),
        ("B", (2, 8, 2, 2, 3)),
        ("C", (2, 7, 2, 2, 4)),
        ("D", (5,)),
        ("D", (2, 8, 4)),
    ],
    ids=str,
)
def test_a_wrong_shape_is_one_line_that_names_it(draw, name, shape):
    inputs = with_diagonal(draw(7, 2), "heads") | {name: torch.ones(shape)}
    with pytest.raises(ValueError, match="quasiseparable") as error:
        quasiseparable(**inputs)
    message = str(error.value)
    assert "\n" not in message
    assert str(shape) in message or f"{shape[-2]} groups do not divide 4 heads" in message


def test_auto_takes_what_can_do_it(draw, monkeypatch):
    inputs = {n: t.float() for n, t in draw(70, 2, head_dim=16, state=16).items()}
    expected = {name: quasiseparable(**inputs, backend=name) for name in ("chunked", "reference")}
    monkeypatch.setenv("STATEFILM_NATIVE", "0")
    assert torch.equal(quasiseparable(**inputs), expected["chunked"])
    odd = draw(70, 2)  # float64, and sizes that only the general forms take
    assert torch.equal(quasiseparable(**odd), quasiseparable(**odd, backend="chunked"))


@pytest.mark.parametrize(
    ("backend", "why"),
    [("native", "switched off by STATEFILM_NATIVE=0"), ("triton", "triton|cuda|valid")],
)
def test_a_backend_that_cannot_do_it_says_why_in_one_line(draw, monkeypatch, backend, why):
    monkeypatch.setenv("STATEFILM_NATIVE", "0")
    inputs = {n: t.float() for n, t in draw(7, 2, head_dim=16, state=16).items()}
    if backend == "triton":
        inputs["x"] = inputs["x"].half()
    with pytest.raises(ValueError, match=f"the {backend} backend .*({why})") as error:
        quasiseparable(**inputs, backend=backend)
    assert "\n" not in str(error.value)


def test_an_unknown_backend_names_the_valid_ones(draw):
    with pytest.raises(ValueError, match=r"'chunky'.*auto.*chunked.*reference"):
        quasiseparable(**draw(7, 2), backend="chunky")
