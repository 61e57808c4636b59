"""quasiseparable in C: outputs and gradients against the reference, bits, views, threads, forks."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from statefilm.ops import native as builder
from statefilm.ops import quasiseparable
from statefilm.ops.chunking import MIN_LOG_DECAY
from statefilm.ops.quasiseparable import native

WHY_NOT = native.refusal("cpu", torch.float32, 16, 16)
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"the native form {WHY_NOT}")

LENGTHS = [1, 2, 63, 64, 65, 100, 257]
DTYPES = [(torch.float32, 3e-5), (torch.bfloat16, 2e-2)]
SMALL = {"head_dim": 16, "state": 32}


def by_native(x, dt, A, B, C, D=None) -> Tensor:
    a = (dt * A).clamp_min(MIN_LOG_DECAY)
    D = D if D is None else D.expand(x.shape[:3])
    return native.quasiseparable_native(x, dt, a, B, C, D)


def by_reference(**inputs) -> Tensor:
    return quasiseparable(**inputs, backend="reference")


@pytest.fixture(autouse=True)
def no_kept_memory(uninitialized_is_nan):
    native.release()


@pytest.fixture
def inputs(draw):
    """Rounded to a dtype, so that the error of the inputs is not counted as one of the op."""

    def run(length: int, dtype: torch.dtype, diagonal: bool = True, **shape) -> dict[str, Tensor]:
        drawn = draw(length, 2, **(SMALL | shape))
        if diagonal:
            drawn["D"] = torch.randn(drawn["x"].shape[:3], dtype=torch.float64)
        wide = torch.float32
        return {n: t.to(wide if n in ("dt", "A") else dtype).double() for n, t in drawn.items()}

    return run


@pytest.mark.parametrize(("dtype", "bound"), DTYPES, ids=str)
@pytest.mark.parametrize("length", LENGTHS)
def test_equals_the_reference(inputs, with_gradients, assert_close, length, dtype, bound):
    drawn = inputs(length, dtype)
    found = with_gradients(by_native, drawn, dtype)
    assert found["output 0"].dtype == dtype
    assert_close(found, with_gradients(by_reference, drawn), bound)


@pytest.mark.parametrize(("dtype", "bound"), DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape",
    [
        {"batch": 1, "heads": 1, "groups": 1, "head_dim": 16, "state": 16},
        {"batch": 1, "heads": 18, "groups": 1, "head_dim": 16, "state": 16},
        {"batch": 3, "heads": 3, "groups": 3, "head_dim": 48, "state": 96},
        {"batch": 1, "heads": 6, "groups": 2, "head_dim": 64, "state": 64},
        {"batch": 1, "heads": 2, "groups": 1, "head_dim": 128, "state": 128},
        {"batch": 1, "heads": 2, "groups": 1, "head_dim": 112, "state": 80},
    ],
    ids=str,
)
def test_shapes(inputs, with_gradients, assert_close, shape, dtype, bound):
    drawn = inputs(150, dtype, diagonal=shape["batch"] == 1, **shape)
    found = with_gradients(by_native, drawn, dtype)
    assert_close(found, with_gradients(by_reference, drawn), bound)


def test_a_diagonal_of_heads(inputs, with_gradients, assert_close):
    drawn = inputs(70, torch.float32) | {"D": torch.tensor([1.0, -2.0, 0.5, 3.0]).double()}
    found = with_gradients(by_native, drawn, torch.float32)
    assert_close(found, with_gradients(by_reference, drawn), 3e-5)


@pytest.mark.parametrize(("dtype", "bound"), DTYPES, ids=str)
def test_strong_decay_and_tiny_steps(inputs, with_gradients, assert_close, dtype, bound):
    drawn = inputs(200, dtype, heads=2)
    drawn["A"] = torch.tensor([-1e4, -1.0]).double()
    drawn["dt"][:, 3:40] = 100.0
    drawn["dt"][:, 40:160] = 2.0**-10
    drawn["dt"][:, 160::2] = 2.0**-100
    assert_close(
        with_gradients(by_native, drawn, dtype), with_gradients(by_reference, drawn), bound
    )


def test_steps_of_zero(inputs, with_gradients, assert_close):
    drawn = inputs(70, torch.float32)
    drawn["dt"][:, ::2] = 0.0
    found = with_gradients(by_native, drawn, torch.float32)
    assert_close(found, with_gradients(by_reference, drawn), 3e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_views_of_a_projection_and_odd_layouts_give_the_same_bits(dtype):
    batch, length, heads, groups, state, head_dim = 2, 70, 4, 2, 32, 16
    sizes = [heads * head_dim, 4 * groups * state, 7]
    x, BC, _ = torch.randn(batch, length, sum(sizes), dtype=dtype).split(sizes, dim=-1)
    B, C = BC.unflatten(-1, (2, 2, groups, state)).unbind(3)
    dt = torch.rand(batch, heads, 2, length).transpose(1, 3)
    D = torch.randn(heads, length, batch, dtype=dtype).permute(2, 1, 0)
    views = [x.unflatten(-1, (heads, head_dim)), dt, -dt[:, :, :1].expand_as(dt), B, C, D]

    def run(tensors: list[Tensor], dy: Tensor) -> list[Tensor]:
        leaves = [t.detach().requires_grad_() for t in tensors]
        y = native.quasiseparable_native(*leaves)
        return [y, *torch.autograd.grad(y, leaves, dy)]

    dy = torch.ones((), dtype=dtype).expand(views[0].shape)
    expected = run([t.contiguous() for t in views], dy.contiguous())
    for found, same in zip(run(views, dy), expected, strict=True):
        assert found.is_contiguous()
        assert torch.equal(found, same)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_number_of_threads_changes_no_bit(inputs, with_gradients, dtype):
    drawn = inputs(1300, dtype, batch=1)
    before = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3, 8):
            torch.set_num_threads(count)
            results.append(with_gradients(by_native, drawn, dtype))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(other[name], tensor) for name, tensor in results[0].items())


def test_not_a_number_stays_one(inputs):
    drawn = {n: t.float() for n, t in inputs(130, torch.float32).items()}
    for dtype in (torch.float32, torch.bfloat16):
        tensors = {n: t.to(torch.float32 if n in ("dt", "A") else dtype) for n, t in drawn.items()}
        tensors["x"][0, 70, 1, 3] = torch.nan
        y = by_native(**tensors)
        assert y[0, :, 1, 3].isnan().all()
        assert y[1].isfinite().all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiles_without_a_graph_break(inputs, with_gradients):
    drawn = inputs(70, torch.float32)
    compiled = torch.compile(by_native, fullgraph=True, backend="aot_eager")
    found = with_gradients(compiled, drawn, torch.float32)
    for name, expected in with_gradients(by_native, drawn, torch.float32).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-6, atol=1e-6)


def test_what_it_takes_and_what_it_says_of_the_rest():
    assert native.refusal("cpu", torch.float32, 16, 128) == ""
    assert native.refusal("cpu", torch.bfloat16, 16, 128) == ""
    for dtype in (torch.float64, torch.float16):
        assert native.refusal("cpu", dtype, 16, 16).startswith(f"does not take {dtype}")
    for sizes in ((8, 16), (16, 144)):
        assert "valid: multiples of 16" in native.refusal("cpu", torch.float32, *sizes)
    assert native.refusal("cuda", torch.float32, 16, 128) == "does not run on cuda; valid: cpu"
    drawn = torch.zeros(1, 4, 2, 8), *torch.zeros(2, 1, 4, 2, 2), *torch.zeros(2, 1, 4, 2, 1, 16)
    with pytest.raises(ValueError, match="native backend does not take head_dim 8 with state 16"):
        native.quasiseparable_native(*drawn)
    with pytest.raises(ValueError, match="B and C in the dtype of x"):
        native.quasiseparable_native(torch.zeros(1, 4, 2, 16).bfloat16(), *drawn[1:])


def test_without_a_library_it_says_why(monkeypatch):
    monkeypatch.setenv(builder.SWITCH, "0")
    refusal = native.refusal("cpu", torch.float32, 16, 16)
    assert refusal == "is off: switched off by STATEFILM_NATIVE=0"


def test_a_forked_process_does_not_wait_for_threads_it_has_not():
    script = """
import os, torch
from statefilm.ops.quasiseparable import native
torch.set_num_threads(2)
x, a = torch.randn(1, 300, 4, 16), -torch.rand(1, 300, 2, 4)
inputs = x, -a, a, *torch.randn(2, 1, 300, 2, 1, 16), None
y = native.forward(*inputs)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(native.forward(*inputs), y) else 1)
assert os.waitpid(child, 0)[1] == 0
assert torch.equal(native.forward(*inputs), y)
"""
    command = [sys.executable, "-W", "ignore", "-c", script]
    subprocess.run(command, check=True, timeout=60)
