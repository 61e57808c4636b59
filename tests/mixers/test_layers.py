"""The parts that mixers share."""

import pytest
import torch
from torch import nn

from statefilm.mixers.layers import depthwise_conv


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("left", "right"), [(3, 3), (6, 0), (2, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_compiled_convolution_is_the_same(left, right, bias, dtype):
    torch.manual_seed(0)
    conv = nn.Conv1d(5, 5, left + right + 1, groups=5, bias=bias)
    parameters = [*conv.parameters()]
    x = torch.randn(2, 9, 5).to(dtype).requires_grad_()
    compiled = torch.compile(depthwise_conv, backend="eager")
    outputs = [f(x, conv, left=left, right=right) for f in (depthwise_conv, compiled)]
    weight = torch.randn(2, 9, 5)
    plain, other = (
        (y, *torch.autograd.grad((y * weight).sum(), (x, *parameters))) for y in outputs
    )
    for one, same in zip(plain, other, strict=True):
        assert one.dtype == same.dtype
        # In bfloat16 the plain one rounds the weights, and the products.
        tolerance = 1e-5 if dtype == torch.float32 else 3e-2
        torch.testing.assert_close(one, same, rtol=tolerance, atol=tolerance)
