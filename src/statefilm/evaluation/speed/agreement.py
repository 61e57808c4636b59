"""Whether an op runs here and computes what the float64 reference computes, gradients included."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from statefilm.evaluation.speed.contestants import Contestant, Inputs, Op, draw, forward_backward
from statefilm.evaluation.speed.floors import OpShape
from statefilm.evaluation.speed.timing import reason
from statefilm.ops import quasiseparable

# What an op may be off and still take part: wrong ones are off by far more.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-2}
NARROW_TOLERANCE = 0.2


def errors(op: Op, inputs: Inputs) -> dict[str, float]:
    """Largest error of the output "y" and of each input's gradient, against the reference.

    Each is relative to the largest entry of the truth, which the reference computes in float64
    from the same rounded inputs. NaN where the op gave NaN.
    """
    dy = torch.randn(
        inputs["x"].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float32
    ).to(inputs["x"])
    found = _all_of(op, inputs, dy)
    exact = {name: tensor.detach().double().requires_grad_() for name, tensor in inputs.items()}
    truth = _all_of(_reference, exact, dy.double())
    return {name: _relative(found[name], truth[name]) for name in truth}


def check(
    contestant: Contestant, shape: OpShape, dtype: torch.dtype, device: torch.device
) -> tuple[dict[str, float], str | None]:
    """Run a contestant once on short inputs.

    Returns:
        The errors (of ops that compute `quasiseparable`), and why it cannot take part, or None.
    """
    inputs = draw(contestant.op, shape, dtype, device)
    try:
        if contestant.op != "quasiseparable":
            forward_backward(contestant.run, inputs)
            return {}, None
        found = errors(contestant.run, inputs)
    except Exception as error:  # whatever a backend says when it is asked for what it cannot do
        return {}, reason(error)
    worst = max(found, key=lambda name: math.inf if math.isnan(found[name]) else found[name])
    if found[worst] <= TOLERANCE.get(dtype, NARROW_TOLERANCE):
        return found, None
    return found, f"wrong: {worst} is off by {found[worst]:.1e} of the reference's largest entry"


def _reference(**inputs: Tensor) -> Tensor:
    return quasiseparable(**inputs, backend="reference")


def _all_of(op: Op, inputs: Inputs, dy: Tensor) -> Inputs:
    y = op(**inputs)
    gradients = torch.autograd.grad(y, list(inputs.values()), dy, materialize_grads=True)
    return {"y": y.detach(), **dict(zip(inputs, gradients, strict=True))}


def _relative(found: Tensor, truth: Tensor) -> float:
    scale = truth.abs().max().item() or 1.0
    return (found.double() - truth).abs().max().item() / scale
