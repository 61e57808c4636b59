"""Who may take part: what runs here and agrees with the reference."""

from functools import partial

import pytest
import torch

from statefilm.evaluation.speed.agreement import check, errors
from statefilm.evaluation.speed.contestants import (
    Contestant,
    by_shift_and_flip,
    contestants,
    draw,
    forward_backward,
)
from statefilm.evaluation.speed.floors import OpShape
from statefilm.ops import quasiseparable
from statefilm.ops.quasiseparable import BACKENDS

CPU = torch.device("cpu")
SHAPE = OpShape(67, batch=2, dim=64, head_dim=16, state_dim=16, groups=2)


def check_op(op, dtype=torch.float32):
    return check(Contestant("it", "quasiseparable", op), SHAPE, dtype, CPU)


@pytest.mark.parametrize(("device", "without"), [("cpu", "triton"), ("cuda", "native")])
def test_the_backends_of_a_device_take_part(device, without):
    names = {contestant.name for contestant in contestants(torch.device(device))}
    wanted = {*BACKENDS} - {"reference", without}
    assert {name.split()[1] for name in names if name.startswith("quasiseparable ")} == wanted
    assert {"quasiseparable", "flip", "sdpa", "linear attention"} <= set(names)
    assert "quasiseparable reference" not in names and len(set(names)) == len(names)


@pytest.mark.parametrize("op", [quasiseparable, by_shift_and_flip])
def test_right_ones_agree_in_output_and_all_gradients(op):
    inputs = draw("quasiseparable", SHAPE, torch.float64, CPU)
    found = errors(op, inputs)
    assert set(found) == {"y", *inputs}
    # dt and A enter as float32 numbers, and are exact from there on.
    assert max(found.values()) < 1e-6
    assert check_op(op)[1] is None and check_op(op, torch.bfloat16)[1] is None


def test_wrong_ones_are_left_out():
    found, why = check_op(lambda x, **others: x + 0 * sum(t.sum() for t in others.values()))
    assert why.startswith("wrong: ") and found["y"] > 0.1
    _, why = check_op(lambda **inputs: quasiseparable(**inputs) * torch.nan)
    assert why.startswith("wrong: ")


def test_backends_that_do_not_run_say_why():
    _, why = check_op(partial(quasiseparable, backend="abacus"))
    assert "unknown backend 'abacus'" in why
    _, why = check(Contestant("it", "sdpa", lambda **_: 1 / 0), SHAPE, torch.float32, CPU)
    assert why.startswith("ZeroDivisionError")


@pytest.mark.parametrize("contestant", contestants(CPU), ids=lambda c: c.name)
def test_inputs_are_views_as_in_the_mixers_and_all_get_gradients(contestant):
    inputs = draw(contestant.op, SHAPE, torch.float32, CPU)
    gradients = forward_backward(contestant.run, inputs)
    for tensor, gradient in zip(inputs.values(), gradients, strict=True):
        assert gradient.shape == tensor.shape and gradient.isfinite().all()
    large = [t for t in inputs.values() if t.shape[-1] > 1 and t.dim() > 3 and t.shape[2] != 2]
    assert large and not any(t.is_contiguous() for t in large)
