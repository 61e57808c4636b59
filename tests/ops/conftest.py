"""Inputs, gradients and error measures that the tests of the ops share."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

Inputs = dict[str, Tensor]


@pytest.fixture
def draw() -> Callable[..., Inputs]:
    """Random float64 inputs of `ssd` (directions=0) or `quasiseparable` (directions=2)."""

    def draw_inputs(
        length: int,
        directions: int,
        *,
        batch: int = 2,
        heads: int = 4,
        head_dim: int = 5,
        groups: int = 2,
        state: int = 3,
        seed: int = 0,
    ) -> Inputs:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        axis = (directions,) if directions else ()
        return {
            "x": normal(batch, length, heads, head_dim),
            "dt": torch.exp(normal(batch, length, *axis, heads) - 1),
            "A": -torch.exp(normal(heads)),
            "B": normal(batch, length, *axis, groups, state),
            "C": normal(batch, length, *axis, groups, state),
        }

    return draw_inputs


@pytest.fixture
def with_gradients() -> Callable[..., Inputs]:
    """Outputs of an op by index and, by name, the gradients of a fixed mix of the outputs."""

    def run(
        op: Callable[..., Tensor | tuple[Tensor, ...]],
        inputs: Inputs,
        dtype: torch.dtype = torch.float64,
    ) -> Inputs:
        # dt and A stay float32 or wider, as the mixers pass them.
        wide = torch.promote_types(dtype, torch.float32)
        leaves = {
            name: tensor.to(wide if name in ("dt", "A", "initial_state") else dtype)
            .clone()
            .requires_grad_()
            for name, tensor in inputs.items()
        }
        outputs = op(**leaves)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        generator = torch.Generator().manual_seed(1)
        loss = sum(
            (out.double() * torch.randn(out.shape, generator=generator, dtype=torch.float64)).sum()
            for out in outputs
        )
        # At length 1 only x and D have a part in the output; the others' gradients are zeros.
        gradients = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        named = {f"output {i}": out.detach() for i, out in enumerate(outputs)}
        return named | dict(zip(leaves, gradients, strict=True))

    return run


@pytest.fixture
def assert_close() -> Callable[[Inputs, Inputs, float], None]:
    """Each tensor's largest error, over its largest entry where that is above 1, is bounded."""

    def check(found: Inputs, expected: Inputs, bound: float) -> None:
        assert found.keys() == expected.keys()
        for name, truth in expected.items():
            assert found[name].shape == truth.shape, name
            error = (found[name].double() - truth.double()).abs().max().item()
            scale = max(1.0, truth.abs().max().item())
            assert error <= bound * scale, f"{name}: {error:.2e} at scale {scale:.2e}"

    return check


@pytest.fixture
def uninitialized_is_nan() -> Iterator[None]:
    """Fill every uninitialised tensor with NaN, so that an element never written shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.empty(8).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture
def elements_written_backward() -> Callable[[Tensor], int]:
    """The elements of all tensors that the backward pass of a scalar makes."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Counter(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            self.count += sum(t.numel() for t in tree_leaves(out) if isinstance(t, Tensor))
            return out

    def count(loss: Tensor) -> int:
        with Counter() as counter:
            loss.backward()
        return counter.count

    return count
