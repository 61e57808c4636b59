"""The fused elementwise ops in Triton: on a CUDA device, or else in Triton's interpreter."""

import os

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is imported

pytest.importorskip("triton", reason="triton is not installed")

from statefilm.ops.fused import conv_silu as conv  # noqa: E402
from statefilm.ops.fused import gated_norm as norm  # noqa: E402

DTYPES = [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def view_of_wider(t: Tensor) -> Tensor:
    return F.pad(t, (3, 5), value=torch.nan)[..., 3:-5]


def on_device(op):
    def run(*tensors: Tensor) -> Tensor:
        return op(*(t.to(DEVICE) for t in tensors)).cpu()

    return run


def conv_reference(x: Tensor, weight: Tensor, bias: Tensor, left: int) -> Tensor:
    padded = F.pad(x, (0, 0, left, weight.shape[1] - 1 - left))
    y = F.conv1d(padded.mT, weight[:, None], bias, groups=x.shape[2])
    return F.silu(y.mT)


def norm_reference(y: Tensor, gate: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(y, y.shape[-1:], weight, eps=1e-5) * F.silu(gate)


def conv_inputs(length: int, channels: int, taps: int) -> tuple[Tensor, ...]:
    return normal(2, length, channels), normal(channels, taps, seed=1), normal(channels, seed=2)


def norm_inputs(dim: int) -> tuple[Tensor, ...]:
    return normal(2, 5, dim), normal(2, 5, dim, seed=1), normal(dim, seed=2)


def check(op, reference, inputs: tuple[Tensor, ...], dtype: torch.dtype, bound: float) -> None:
    """Outputs and gradients, the first two inputs as views, against float64."""
    inputs = tuple(t.to(dtype).double() for t in inputs)
    results = []
    for run, kind in ((op, dtype), (reference, torch.float64)):
        leaves = [t.to(kind).requires_grad_() for t in inputs]
        out = run(view_of_wider(leaves[0]), *leaves[1:])
        assert out.dtype == kind
        loss = (out.double() * normal(*out.shape, seed=3)).sum()
        results.append([out.detach(), *torch.autograd.grad(loss, leaves)])
    for found, truth in zip(*results, strict=True):
        assert found.shape == truth.shape
        assert (found - truth).abs().max() <= bound * max(1, truth.abs().max())


@pytest.mark.parametrize(("dtype", "bound"), DTYPES, ids=str)
@pytest.mark.parametrize(
    ("length", "channels", "taps", "left"),
    [(1, 1, 1, 0), (2, 5, 7, 3), (33, 130, 7, 3), (300, 20, 4, 3), (40, 128, 4, 0)],
)
def test_conv_silu(uninitialized_is_nan, length, channels, taps, left, dtype, bound):
    def op(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return conv.conv_silu(x, weight, bias, left)

    def reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return conv_reference(x, weight, bias, left)

    check(on_device(op), reference, conv_inputs(length, channels, taps), dtype, bound)


@pytest.mark.parametrize(("dtype", "bound"), DTYPES, ids=str)
@pytest.mark.parametrize("dim", [1, 33, 128, 1000])
@pytest.mark.parametrize("programs", [3, 1024])
def test_gated_norm(uninitialized_is_nan, monkeypatch, programs, dim, dtype, bound):
    monkeypatch.setattr(norm, "PROGRAMS", programs)

    def op(y: Tensor, gate: Tensor, weight: Tensor) -> Tensor:
        return norm.gated_norm(y, view_of_wider(gate), weight, 1e-5)

    check(on_device(op), norm_reference, norm_inputs(dim), dtype, bound)


def test_a_float32_norm_of_a_narrow_gate_is_narrow():
    y, gate, weight = norm_inputs(20)
    op = on_device(lambda *tensors: norm.gated_norm(*tensors, 1e-5))
    out = op(y.float(), gate.bfloat16(), weight.float())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), norm_reference(y, gate, weight), rtol=2e-2, atol=2e-2)


def test_empty_inputs():
    x, weight, bias = (t.float().requires_grad_() for t in conv_inputs(5, 4, 3))
    y = on_device(lambda *tensors: conv.conv_silu(*tensors, 1))(x[:0], weight, bias)
    y = on_device(lambda *tensors: norm.gated_norm(*tensors, 1e-5))(y, y, bias)
    assert y.shape == (0, 5, 4)
    assert torch.autograd.grad(y.sum(), weight)[0].eq(0).all()


@pytest.mark.parametrize("name", ["conv_silu", "gated_norm"])
def test_the_ops_keep_the_promises_of_custom_ops(name):
    inputs, last = (conv_inputs(5, 4, 3), 1) if name == "conv_silu" else (norm_inputs(6), 1e-5)
    tensors = tuple(t.float().to(DEVICE) for t in inputs)
    backward = getattr(torch.ops.statefilm, f"{name}_backward")
    torch.library.opcheck(backward, (tensors[0].clone(), *tensors, last))
    leaves = tuple(t.requires_grad_() for t in tensors)
    torch.library.opcheck(getattr(torch.ops.statefilm, name), (*leaves, last))
