"""ssd: the chunked form against the recurrence and the explicit matrix, states included."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from statefilm.ops import ssd
from statefilm.ops.ssd.chunked import _core

LENGTHS = [1, 2, 63, 64, 65, 100, 257]


def by_chunks(**inputs) -> tuple[Tensor, Tensor]:
    return ssd(**inputs, return_final_state=True)


def by_recurrence(**inputs) -> tuple[Tensor, Tensor]:
    return ssd(**inputs, return_final_state=True, backend="reference")


def by_matrix(x, dt, A, B, C, initial_state=None) -> tuple[Tensor, Tensor]:
    """Every source at once: the decays are products over all (target, source) pairs."""
    length, heads = x.shape[1:3]
    B, C = (t.repeat_interleave(heads // t.shape[2], dim=2) for t in (B, C))
    log_decay = dt * A
    between = [  # between[i][j] = sum of log_decay over the tokens j+1 .. i
        torch.stack([log_decay[:, j + 1 : i + 1].sum(1) for j in range(length)], dim=-1)
        for i in range(length)
    ]
    decay = torch.stack(between, dim=2).exp() * torch.ones(length, length).tril()
    matrix = torch.einsum("bihn,bjhn->bhij", C, B) * decay
    u = dt[..., None] * x
    y = torch.einsum("bhij,bjhp->bihp", matrix, u)
    final = torch.einsum("bhj,bjhp,bjhn->bhpn", decay[:, :, -1], u, B)
    if initial_state is not None:
        from_start = log_decay.cumsum(1).exp()
        y = y + torch.einsum("bihn,bih,bhpn->bihp", C, from_start, initial_state)
        final = final + from_start[:, -1, :, None, None] * initial_state
    return y, final


def with_initial_state(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    batch, _, heads, head_dim = inputs["x"].shape
    generator = torch.Generator().manual_seed(3)
    shape = (batch, heads, head_dim, inputs["B"].shape[-1])
    return inputs | {"initial_state": torch.randn(shape, generator=generator, dtype=torch.float64)}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("start", ["zero", "given"])
def test_chunked_equals_the_recurrence(
    draw, with_gradients, assert_close, uninitialized_is_nan, length, start
):
    inputs = draw(length, 0) if start == "zero" else with_initial_state(draw(length, 0))
    found = with_gradients(by_chunks, inputs)
    assert_close(found, with_gradients(by_recurrence, inputs), 1e-10)


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65])
def test_chunked_equals_the_explicit_matrix(draw, with_gradients, assert_close, length):
    inputs = with_initial_state(draw(length, 0, heads=2))
    assert_close(with_gradients(by_chunks, inputs), with_gradients(by_matrix, inputs), 1e-10)


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
def test_shapes(draw, with_gradients, assert_close, shape):
    inputs = with_initial_state(draw(70, 0, **shape))
    found = with_gradients(by_chunks, inputs)
    assert_close(found, with_gradients(by_recurrence, inputs), 1e-10)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)], ids=str
)
def test_narrow_dtypes_stay_near_float64(
    draw, with_gradients, assert_close, uninitialized_is_nan, length, dtype, bound
):
    inputs = with_initial_state(draw(length, 0))
    kept = ("dt", "A", "initial_state")
    inputs = {n: t if n in kept else t.to(dtype).double() for n, t in inputs.items()}
    found = with_gradients(by_chunks, inputs, dtype)
    assert found["output 0"].dtype == dtype
    assert found["output 1"].dtype == torch.float32
    assert_close(found, with_gradients(by_recurrence, inputs), bound)


@settings(deadline=None, max_examples=30)
@given(lengths=st.tuples(st.integers(1, 140), st.integers(1, 140)), seed=st.integers(0, 1000))
def test_a_sequence_cut_anywhere_continues_from_the_state(lengths, seed):
    first, whole = lengths[0], sum(lengths)
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    A, start = -normal(2).exp(), normal(1, 2, 3, 4)
    sequences = (
        normal(1, whole, 2, 3), normal(1, whole, 2).exp(),
        normal(1, whole, 1, 4), normal(1, whole, 1, 4),
    )  # fmt: skip

    def scan(part: slice, state: Tensor) -> tuple[Tensor, Tensor]:
        x, dt, B, C = (t[:, part] for t in sequences)
        return ssd(x, dt, A, B, C, initial_state=state, return_final_state=True)

    y, final = scan(slice(None), start)
    y_1, between = scan(slice(first), start)
    y_2, final_2 = scan(slice(first, None), between)
    torch.testing.assert_close(torch.cat([y_1, y_2], dim=1), y, rtol=0, atol=1e-10)
    torch.testing.assert_close(final_2, final, rtol=0, atol=1e-10)


def test_output_alone_unless_the_state_is_asked_for(draw):
    inputs = draw(65, 0)
    y, _ = ssd(**inputs, return_final_state=True)
    assert torch.equal(ssd(**inputs), y)


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 3e-4), (torch.bfloat16, 2e-2)], ids=str
)
def test_strong_decay_leaves_only_the_token_itself(
    draw, with_gradients, assert_close, dtype, bound
):
    inputs = draw(130, 0, heads=2)
    inputs = {n: t if n == "dt" else t.to(dtype).double() for n, t in inputs.items()}
    inputs |= {"A": torch.full((2,), -1e4), "dt": inputs["dt"] + 1}

    def by_itself(x, dt, A, B, C) -> Tensor:
        return (dt * (B * C).sum(-1))[..., None] * x + 0 * A[:, None]

    found = with_gradients(ssd, inputs, dtype)
    assert_close(found, with_gradients(by_itself, inputs), bound)


def test_weak_decay_after_strong_decay_keeps_its_precision(draw, with_gradients, assert_close):
    inputs = draw(128, 0)
    inputs["A"] = torch.full((4,), -1.0, dtype=torch.float64)
    inputs["dt"] = torch.full_like(inputs["dt"], 1e-2)
    inputs["dt"][:, 3:40] = 100.0
    found = with_gradients(by_chunks, inputs, torch.float32)
    assert_close(found, with_gradients(by_recurrence, inputs), 3e-4)


def test_long_bfloat16_sequence_is_finite_and_near_float32(draw):
    inputs = draw(8192, 0, batch=1, heads=2, groups=1, head_dim=8, state=8)
    inputs["dt"] = inputs["dt"] * 1e-2
    wide = {n: t.float() for n, t in inputs.items()}
    narrow = {n: t if n in ("dt", "A") else t.bfloat16() for n, t in wide.items()}
    expected, found = ssd(**wide), ssd(**narrow)
    assert found.isfinite().all()
    assert (found.float() - expected).norm() <= 2e-2 * expected.norm()


def test_backward_work_is_linear_in_the_length(draw, elements_written_backward):
    def work(length: int) -> int:
        inputs = draw(length, 0, batch=1, heads=1, groups=1, head_dim=16, state=16)
        leaves = {n: t.requires_grad_() for n, t in inputs.items()}
        return elements_written_backward(ssd(**leaves).sum())

    assert work(16384) <= 8.5 * work(2048)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiles_without_a_graph_break(draw, with_gradients, assert_close):
    inputs = with_initial_state(draw(70, 0))
    compiled = torch.compile(by_chunks, fullgraph=True, backend="aot_eager")
    assert_close(with_gradients(compiled, inputs), with_gradients(by_chunks, inputs), 1e-12)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("x", (2, 7, 20)),
        ("x", (2, 0, 4, 5)),
        ("dt", (2, 7, 5)),
        ("A", (5,)),
        ("B", (2, 7, 3, 3)),
        ("B", (2, 7, 3)),
        ("C", (2, 8, 2, 3)),
        ("initial_state", (2, 4, 3, 5)),
    ],
    ids=str,
)
def test_a_wrong_shape_is_one_line_that_names_it(draw, name, shape):
    inputs = with_initial_state(draw(7, 0)) | {name: torch.ones(shape)}
    with pytest.raises(ValueError, match="ssd") as error:
        ssd(**inputs)
    message = str(error.value)
    assert "\n" not in message
    assert str(shape) in message or f"{shape[-2]} groups do not divide 4 heads" in message


def test_an_unknown_backend_names_the_valid_ones(draw):
    with pytest.raises(ValueError, match=r"'chunky'.*auto.*chunked.*reference"):
        ssd(**draw(7, 0), backend="chunky")


@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("length", [40, 192])  # whole chunks: others are filled up
def test_flops_are_those_of_the_products(draw, length, initial):
    inputs = draw(length, 0)
    inputs["a"] = inputs["dt"] * inputs.pop("A")
    inputs["initial"] = with_initial_state(inputs)["initial_state"] if initial else None
    with FlopCounterMode(display=False) as products:
        _core._init_fn(**inputs)
    with FlopCounterMode(display=False) as op:
        _core(**inputs)
    assert op.get_total_flops() == products.get_total_flops() > 0
