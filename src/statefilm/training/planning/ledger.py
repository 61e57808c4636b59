"""What one forward and backward computes and holds, counted without computing it.

The step runs on torch's fake tensors: shapes, dtypes and storages are real, numbers are not there.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

__all__ = ["Counts", "count"]


@dataclass(frozen=True)
class Counts:
    """One forward and backward.

    Attributes:
        activations: bytes that the forward keeps for the backward; neither parameters nor copies
            of them in another dtype.
        weight_copies: bytes of such copies (autocast makes them).
        peak: most bytes that live at a time, beside parameters, buffers and inputs; gradients of
            parameters from the moment on at which they are complete.
        peak_without_gradients: the same with those gradients left out.
        trained_flops, frozen_flops: operations of the forward, two for a multiply-add, in what is
            trained and in what is not.
    """

    activations: int
    weight_copies: int
    peak: int
    peak_without_gradients: int
    trained_flops: int
    frozen_flops: int


def count(
    forward: Callable[[], Tensor], parameters: Iterable[nn.Parameter], frozen: Iterable[nn.Module]
) -> Counts:
    """Run `forward`, which returns a loss, and its backward; on real tensors or on fake ones.

    Args:
        parameters: of all modules; storages that are theirs are not counted.
        frozen: modules that are not trained.
    """
    parameters = list(parameters)
    ledger = _Ledger(parameters)
    kept: dict[int, int] = {}
    copies: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in ledger.copies:
            copies[key] = storage.nbytes()
        elif key not in ledger.weights:
            kept[key] = storage.nbytes()
        return tensor

    with _inside(frozen, ledger), ledger:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = forward()
        with _gradients_known(parameters, ledger):
            flops, frozen_flops = ledger.flops, ledger.frozen_flops
            loss.backward()
    for parameter in parameters:
        parameter.grad = None
    return Counts(
        activations=sum(kept.values()),
        weight_copies=sum(copies.values()),
        peak=ledger.peak,
        peak_without_gradients=ledger.peak_without_gradients,
        trained_flops=flops,
        frozen_flops=frozen_flops,
    )


class _Ledger(TorchDispatchMode):
    """Sees every operation: adds up its FLOPs and the storages that come and go."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__()
        self.weights = {p.untyped_storage()._cdata for p in parameters}
        self.copies: set[int] = set()
        self.flops = self.frozen_flops = 0
        self.depth = 0  # of frozen modules around what runs
        self.live = self.peak = self.gradients = self.peak_without_gradients = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func.namespace == "prim":  # asks for a device or a layout
            return out
        operations = _operations(func, args, kwargs, out)
        if self.depth:
            self.frozen_flops += operations
        else:
            self.flops += operations
        inputs = {t.untyped_storage()._cdata for t in _tensors((args, kwargs))}
        for tensor in _tensors(out):
            storage = tensor.untyped_storage()
            if storage._cdata not in inputs | self.weights:
                self._add(storage)
                if func is torch.ops.aten._to_copy.default and inputs & self.weights:
                    self.copies.add(storage._cdata)
        return out

    def hold_gradient(self, storage: torch.UntypedStorage) -> None:
        """A parameter's gradient is complete and lives in this storage."""
        self.gradients += storage.nbytes()

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        self.peak_without_gradients = max(self.peak_without_gradients, self.live - self.gradients)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.copies.discard(key)
        self.live -= size


def _operations(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """FLOPs of one call; 0 of what is no matrix product, convolution or scan."""
    if func is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default:
        return sdpa_flop_count(*(tensor.shape for tensor in args[:3]))  # not in torch's registry
    formula = flop_registry.get(func._overloadpacket)
    return 0 if formula is None else formula(*args, **kwargs, out_val=out)


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


@contextmanager
def _inside(modules: Iterable[nn.Module], ledger: _Ledger) -> Iterator[None]:
    """Operations inside of the modules count as frozen; of a VAE, whose parts are called alone."""

    def enter(*_: object) -> None:
        ledger.depth += 1

    def leave(*_: object) -> None:
        ledger.depth -= 1

    with ExitStack() as hooks:
        for module in modules:
            for part in (module, *module.children()):
                hooks.callback(part.register_forward_pre_hook(enter).remove)
                hooks.callback(part.register_forward_hook(leave).remove)
        yield


@contextmanager
def _gradients_known(parameters: Iterable[nn.Parameter], ledger: _Ledger) -> Iterator[None]:
    def note(parameter: Tensor) -> None:
        assert parameter.grad is not None
        ledger.hold_gradient(parameter.grad.untyped_storage())

    with ExitStack() as hooks:
        for parameter in parameters:
            if parameter.requires_grad:
                hooks.callback(parameter.register_post_accumulate_grad_hook(note).remove)
        yield
