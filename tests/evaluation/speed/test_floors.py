"""Operations and bytes counted by hand, against torch's count, and as times."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from statefilm.evaluation.speed.contestants import draw
from statefilm.evaluation.speed.floors import OPS, Cost, OpShape, Rates, cost

# 8 tokens of 2 heads of 3.
SMALL = OpShape(4, batch=2, dim=6, head_dim=3, state_dim=5, groups=1)


def test_quasiseparable_by_hand():
    # Short: the whole matrix. Each of 2 x 4 x 4 entries takes 5 multiply-adds from C and B, and
    # then one for each of the 6 values of x.
    flops = 2 * (2 * 4 * 4) * (5 + 6)
    x, D, B_and_C, dt, A = 8 * 6 * 2, 8 * 2 * 2, 2 * (8 * 2 * 5 * 2), 8 * 2 * 2 * 4, 2 * 4
    read, y = x + D + B_and_C + dt + A, x
    assert cost("quasiseparable", SMALL, itemsize=2) == Cost(flops, read + y)
    assert cost("quasiseparable", SMALL, itemsize=2, backward=True) == Cost(
        3 * flops, read + y + read + y + read
    )


def test_long_sequences_cost_a_recurrence():
    # A token, a head, a direction: 3 x 5 multiply-adds into the state, as many out of it.
    long = OpShape(1000, batch=2, dim=6, head_dim=3, state_dim=5)
    assert cost("quasiseparable", long, 4).flops == 2 * (2 * 1000) * 2 * 2 * (2 * 3 * 5)


def test_attention_by_hand():
    assert cost("sdpa", SMALL, 2) == Cost(2 * 2 * (2 * 4 * 4 * 6), 4 * (8 * 6 * 2))
    # A head's 3 x 3 matrix of keys and values: into it, out of it, and the normaliser.
    assert cost("linear attention", SMALL, 2) == Cost(2 * 8 * 2 * (9 + 9 + 3), 4 * (8 * 6 * 2))


def test_attention_as_torch_counts_it():
    q = torch.zeros(2, 2, 4, 3)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        F.scaled_dot_product_attention(q, q, q)
    assert counter.get_total_flops() == cost("sdpa", SMALL, 4).flops


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_read_are_those_of_the_inputs(op, dtype):
    inputs = draw(op, SMALL, dtype, torch.device("cpu"))
    size = sum(tensor.numel() * tensor.element_size() for tensor in inputs.values())
    assert OPS[op](SMALL, dtype.itemsize).read == size


def test_the_floor_is_the_longer_of_arithmetic_and_transport():
    rates = Rates(matmul=10.0, copy=2.0)
    assert Cost(flops=100, bytes=4).floor(rates) == 10.0
    assert Cost(flops=100, bytes=40).floor(rates) == 20.0


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"length": 0}, "length 0"),
        ({"length": 1, "dim": 10, "head_dim": 4}, "head_dim 4 does not divide dim 10"),
        ({"length": 1, "dim": 6, "head_dim": 2, "groups": 2}, "groups 2 does not divide"),
    ],
)
def test_shapes_that_cannot_be(fields, says):
    with pytest.raises(ValueError, match=says):
        OpShape(**fields)
