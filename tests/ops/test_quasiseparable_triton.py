"""quasiseparable's Triton kernels: on a CUDA device, or else in Triton's interpreter."""

import os
from functools import partial

import pytest
import torch
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is imported

pytest.importorskip("triton", reason="triton is not installed")

from statefilm.ops import quasiseparable  # noqa: E402
from statefilm.ops.chunking import MIN_LOG_DECAY  # noqa: E402
from statefilm.ops.quasiseparable import triton as kernels  # noqa: E402
from statefilm.ops.quasiseparable.reference import quasiseparable_reference  # noqa: E402

WHY_NOT = kernels.refusal(DEVICE, torch.float32, 16, 16)
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"Triton {WHY_NOT}")

SIZES = {"batch": 2, "heads": 2, "groups": 1, "head_dim": 16, "state": 32}


def by_kernels(x, dt, A, B, C, D=None) -> Tensor:
    x, dt, A, B, C = (t.to(DEVICE) for t in (x, dt, A, B, C))
    a = (dt * A).clamp_min(MIN_LOG_DECAY)
    D = None if D is None else D.to(DEVICE)
    return kernels.quasiseparable_triton(x, dt, a, B, C, D).cpu()


def with_diagonal(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    D = torch.randn(inputs["x"].shape[:3], generator=generator, dtype=torch.float64)
    return inputs | {"D": D}


def rounded(inputs: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Inputs that `dtype` holds exactly: their rounding is no error of the op."""
    return {n: t if n in ("dt", "A") else t.to(dtype).double() for n, t in inputs.items()}


@pytest.fixture
def bfloat16_products(monkeypatch) -> None:
    """Let the interpreter multiply bfloat16 by value; it takes their bits for integers."""
    if DEVICE == "cuda":
        return
    from triton.runtime import interpreter

    def values(handle):
        # The upper half of a float32 is the bfloat16.
        if str(handle.dtype.scalar) != "bf16":
            return handle.data
        return (handle.data.astype("uint32") << 16).view("float32")

    def create_dot(builder, a, b, d, *_):
        product = values(a) @ values(b) + d.data
        return interpreter.TensorHandle(product, d.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)
    monkeypatch.setattr(kernels, "quasiseparable_triton", torch.ops.statefilm.quasiseparable_triton)


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 70])
def test_outputs_and_gradients_are_the_references(
    draw, with_gradients, assert_close, uninitialized_is_nan, length
):
    inputs = rounded(with_diagonal(draw(length, 2, **SIZES)), torch.float32)
    found = with_gradients(by_kernels, inputs, torch.float32)
    assert_close(found, with_gradients(quasiseparable_reference, inputs), 2e-5)


@pytest.mark.parametrize("length", [1, 64, 100])
def test_bfloat16_stays_near_float64(
    draw, with_gradients, assert_close, uninitialized_is_nan, bfloat16_products, length
):
    inputs = rounded(with_diagonal(draw(length, 2, **SIZES)), torch.bfloat16)
    found = with_gradients(by_kernels, inputs, torch.bfloat16)
    assert found["output 0"].dtype == torch.bfloat16
    assert_close(found, with_gradients(quasiseparable_reference, inputs), 2e-2)


def test_bfloat16_needs_no_help_from_the_caller(draw):
    inputs = draw(40, 2, **SIZES)
    narrow = {n: t.float() if n in ("dt", "A") else t.bfloat16() for n, t in inputs.items()}
    found, expected = by_kernels(**narrow), quasiseparable_reference(**inputs)
    assert (found - expected).norm() <= 2e-2 * expected.norm()


@pytest.mark.parametrize(
    ("programs", "heads", "groups"),
    [(1, 5, 1), (5, 5, 1), (1000, 5, 1), (1, 4, 2), (1, 3, 3), (1, 18, 1)],
)
def test_heads_groups_and_their_blocks(
    draw, with_gradients, assert_close, uninitialized_is_nan, monkeypatch, programs, heads, groups
):
    monkeypatch.setattr(kernels, "PROGRAMS", programs)
    inputs = draw(35, 2, batch=1, heads=heads, groups=groups, head_dim=16, state=16)
    inputs = rounded(inputs, torch.float32)
    found = with_gradients(by_kernels, inputs, torch.float32)
    assert_close(found, with_gradients(quasiseparable_reference, inputs), 2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("head_dim, state", [(64, 64), (128, 16), (16, 128)])  # noqa: PT006
def test_sizes(draw, with_gradients, assert_close, bfloat16_products, head_dim, state, dtype):
    inputs = draw(70, 2, batch=1, heads=1, groups=1, head_dim=head_dim, state=state)
    inputs = rounded(with_diagonal(inputs), dtype)
    found = with_gradients(by_kernels, inputs, dtype)
    bound = 2e-5 if dtype == torch.float32 else 2e-2
    assert_close(found, with_gradients(quasiseparable_reference, inputs), bound)


def test_dt_and_a_are_independent(draw, with_gradients, assert_close):
    inputs = rounded(with_diagonal(draw(70, 2, **SIZES)), torch.float32)
    inputs["a"] = -inputs["dt"].flip(1) * inputs.pop("A").abs()

    def by_pairs(x, dt, a, B, C, D) -> Tensor:
        heads, length = x.shape[2], x.shape[1]
        B, C = (t.repeat_interleave(heads // t.shape[3], 3) for t in (B, C))
        i = torch.arange(length)
        forward, backward = i[:, None] > i, i[:, None] < i
        y = D[..., None] * x
        for side, mask, shift in (0, forward, 1), (1, backward, -1):
            sums = a[:, :, side].cumsum(1)
            # Of the steps strictly between two positions.
            between = (sums - a[:, :, side])[:, :, None] - sums[:, None]
            between = between if side == 0 else between.transpose(1, 2)
            between = between.masked_fill(~mask[:, :, None], -torch.inf)
            scores = torch.einsum("bihn,bjhn->bijh", C[:, :, side].roll(shift, 1), B[:, :, side])
            weights = scores * between.exp() * dt[:, None, :, side]
            y = y + torch.einsum("bijh,bjhp->bihp", weights, x)
        return y

    def by_core(x, dt, a, B, C, D) -> Tensor:
        tensors = (t.to(DEVICE) for t in (x, dt, a, B, C, D))
        return kernels.quasiseparable_triton(*tensors).cpu()

    def wide(op):
        return lambda **leaves: op(**leaves | {"a": leaves["a"].to(leaves["dt"].dtype)})

    found = with_gradients(wide(by_core), inputs, torch.float32)
    assert_close(found, with_gradients(wide(by_pairs), inputs), 2e-5)


@pytest.mark.parametrize("form", ["projection", "transposed", "expanded"])
def test_views(draw, with_gradients, assert_close, form):
    inputs = rounded(with_diagonal(draw(35, 2, **SIZES)), torch.float32)

    def view(t: Tensor) -> Tensor:
        if form == "projection":
            start = t.new_full((*t.shape[:2], 3), torch.nan)
            wide = torch.cat([start, t.flatten(2), start], dim=2)
            return wide[..., 3:-3].unflatten(2, t.shape[2:])
        if form == "transposed":
            return t.transpose(1, -2).contiguous().transpose(1, -2)
        return t[:1].expand(t.shape)

    def by_views(x, B, C, **others) -> Tensor:
        return by_kernels(view(x), B=view(B), C=view(C), **others)

    def expected(x, B, C, **others) -> Tensor:
        return quasiseparable_reference(view(x), B=view(B), C=view(C), **others)

    found = with_gradients(by_views, inputs, torch.float32)
    assert_close(found, with_gradients(expected, inputs), 2e-5)


def test_strong_decay_leaves_only_the_neighbours(draw, with_gradients, assert_close):
    inputs = rounded(with_diagonal(draw(100, 2, **SIZES)), torch.float32)
    inputs |= {"A": torch.full((2,), -1e4, dtype=torch.float64), "dt": inputs["dt"] + 1}

    def by_neighbours(x, dt, A, B, C, D) -> Tensor:
        left = dt[..., None] * x[:, :, None] * (B * C).sum(-1)[..., None] + 0 * A[:, None]
        pad = torch.nn.functional.pad
        from_before = pad(left[:, :-1, 0], (0, 0, 0, 0, 1, 0))
        return from_before + pad(left[:, 1:, 1], (0, 0, 0, 0, 0, 1)) + D[..., None] * x

    found = with_gradients(by_kernels, inputs, torch.float32)
    assert_close(found, with_gradients(by_neighbours, inputs), 2e-5)


def test_weak_decay_after_strong_decay_keeps_its_precision(draw, with_gradients, assert_close):
    inputs = draw(64, 2, **SIZES)
    inputs["A"] = torch.full((2,), -1.0, dtype=torch.float64)
    inputs["dt"] = torch.full_like(inputs["dt"], 1e-2)
    inputs["dt"][:, 3:20] = 100.0
    inputs = rounded(inputs, torch.float32)
    found = with_gradients(by_kernels, inputs, torch.float32)
    assert_close(found, with_gradients(quasiseparable_reference, inputs), 3e-4)


def test_vanishing_steps_and_no_decay(draw, with_gradients, assert_close):
    inputs = draw(40, 2, **SIZES)
    inputs["dt"][:, ::2] = 0.0
    inputs["dt"][:, 1::4] = 1e-30
    inputs = rounded(inputs, torch.float32)
    found = with_gradients(by_kernels, inputs, torch.float32)
    assert_close(found, with_gradients(quasiseparable_reference, inputs), 2e-5)


def test_gradients_are_bit_for_bit_reproducible(draw, with_gradients):
    inputs = with_diagonal(draw(70, 2, **SIZES))
    runs = [with_gradients(by_kernels, inputs, torch.float32) for _ in range(2)]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_an_empty_batch_gives_an_empty_output(draw, with_gradients):
    inputs = {n: t if n == "A" else t[:0] for n, t in draw(5, 2, **SIZES).items()}
    found = with_gradients(by_kernels, inputs, torch.float32)
    assert found["output 0"].shape == inputs["x"].shape
    assert found["A"].eq(0).all()


def test_the_ops_keep_the_promises_of_custom_ops(draw):
    inputs = {n: t.float().to(DEVICE) for n, t in draw(5, 2, **SIZES).items()}
    a = inputs["dt"] * inputs["A"]
    tensors = (inputs["x"], inputs["dt"], a, inputs["B"], inputs["C"], None)
    ops = torch.ops.statefilm
    torch.library.opcheck(ops.quasiseparable_triton_backward, (inputs["x"], *tensors))
    leaves = tuple(None if t is None else t.requires_grad_() for t in tensors)
    torch.library.opcheck(ops.quasiseparable_triton, leaves)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiles_without_a_graph_break(draw, with_gradients, assert_close):
    inputs = with_diagonal(draw(35, 2, **SIZES))
    compiled = torch.compile(by_kernels, fullgraph=True, backend="aot_eager")
    found = with_gradients(compiled, inputs, torch.float32)
    assert_close(found, with_gradients(by_kernels, inputs, torch.float32), 1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [("dtype", torch.float64), ("head_dim", 48), ("state", 8), ("state", 256)],
    ids=str,
)
def test_what_the_kernels_do_not_cover_is_one_line_that_names_it(draw, name, value):
    sizes = SIZES if name == "dtype" else SIZES | {name: value}
    dtype = value if name == "dtype" else torch.float32
    inputs = {n: t.to(dtype) for n, t in draw(5, 2, **sizes).items()}
    with pytest.raises(ValueError, match=str(value)) as error:
        by_kernels(**inputs)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(DEVICE == "cpu", reason="too long for the interpreter")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_long_sequences(draw, with_gradients, dtype):
    inputs = draw(9001, 2, batch=1, heads=8, groups=2, head_dim=64, state=64)
    inputs["dt"] = inputs["dt"] * 1e-2
    inputs = rounded(with_diagonal(inputs), dtype)
    expected = with_gradients(partial(quasiseparable, backend="chunked"), inputs)
    found = with_gradients(by_kernels, inputs, dtype)
    bound = 1e-4 if dtype == torch.float32 else 2e-2
    for name, truth in expected.items():
        assert (found[name] - truth).norm() <= bound * truth.norm(), name
