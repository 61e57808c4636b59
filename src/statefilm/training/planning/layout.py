"""How many bytes of a model lie on one device, and how many go over the wires in a step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from statefilm.models.blocks import HTHBlock
from statefilm.training.parallel.ranks import fill_sizes
from statefilm.training.recipe import Parallel

__all__ = ["Communication", "Layout", "ModelBytes", "communication", "layout_of", "width_of"]


@dataclass(frozen=True)
class Layout:
    """Processes, one a device: see `recipe.Parallel`."""

    replicate: int
    shard: int
    context: int

    @property
    def devices(self) -> int:
        """Processes in all."""
        return self.replicate * self.shard * self.context

    @property
    def cuts(self) -> int:
        """Over how many devices each parameter is cut."""
        return self.shard * self.context if self.shard > 1 else 1

    @property
    def sample_parts(self) -> int:
        """Into how many parts each batch is shared."""
        return self.replicate * self.shard


def layout_of(sizes: Parallel, devices: int) -> Layout:
    """The sizes with what is null filled in.

    Raises:
        UsageError: they do not multiply to the number of devices.
    """
    return Layout(*fill_sizes(sizes, devices), sizes.context)


@dataclass(frozen=True)
class ModelBytes:
    """What is there all the time, in bytes, whole.

    Attributes:
        parameters: number of trained parameters.
        weights, gradients, optimizer, average: of what is trained.
        frozen: weights of what is not, which every device holds whole.
        largest_block: weights of the largest module that is gathered at once.
    """

    parameters: int
    weights: int
    gradients: int
    optimizer: int
    average: int
    frozen: int
    largest_block: int

    @classmethod
    def of(cls, modules: nn.ModuleDict, frozen: Iterable[nn.Module], optimizer: int) -> ModelBytes:
        """The sizes of modules with their averages in float32; `optimizer` in bytes."""
        trained = [p for p in modules.parameters() if p.requires_grad]
        count, weights = sum(p.numel() for p in trained), _weight(modules)
        gradients = sum(p.numel() * p.element_size() for p in trained)
        still = sum(_weight(module) for module in frozen)
        return cls(count, weights, gradients, optimizer, 4 * count, still, _largest(modules))


@dataclass(frozen=True)
class Communication:
    """Bytes that one device sends in a step.

    Attributes:
        all_gather: of parameters, and of tokens after each block.
        reduce_scatter: of gradients.
        all_reduce: of gradients between replicas.
        all_to_all: of tokens against heads around the mixers.
    """

    all_gather: int
    reduce_scatter: int
    all_reduce: int
    all_to_all: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.all_gather + self.reduce_scatter + self.all_reduce + self.all_to_all


def communication(
    layout: Layout,
    model: ModelBytes,
    blocks: Iterable[HTHBlock],
    tokens: int,
    parts: int,
    itemsize: int,
) -> Communication:
    """Bytes one device sends in a step, by ring algorithms; Muon's exchange is left out.

    Args:
        blocks: those whose tokens are split, if the layout has context.
        tokens: of all samples that a context group passes at a time.
        parts: how often gradients are added up (`accumulate`).
        itemsize: bytes of a number in the compute dtype.
    """
    gathered = scattered = reduced = traded = 0.0
    if layout.cuts > 1:
        others = (layout.cuts - 1) / layout.cuts
        gathered += parts * 2 * others * model.weights  # forward and backward
        scattered += parts * others * model.gradients
        reduced += parts * _ring(layout.replicate) * model.gradients / layout.cuts
    else:
        reduced += _ring(layout.devices) * model.gradients
    if layout.context > 1:
        others = (layout.context - 1) / layout.context
        for block in blocks:
            residual = 4 * width_of(block)
            gathered += parts * others * tokens * residual / layout.context
            traded += parts * others * tokens * residual / layout.context  # its adjoint
            traded += parts * 2 * others * tokens * itemsize * _traded(block.mixer) / layout.context
    return Communication(*(round(n) for n in (gathered, scattered, reduced, traded)))


def _ring(size: int) -> float:
    """What each of `size` processes sends for an all-reduce of one byte."""
    return 2 * (size - 1) / size


def _traded(mixer: Any) -> int:
    """Numbers of a token that go through the all-to-alls around a mixer's op, at most."""
    inner = getattr(mixer, "inner", None)
    if inner is None:
        return 4 * _inputs(mixer)  # queries, keys, values and what they give
    groups, heads = getattr(mixer, "groups", 1), getattr(mixer, "heads", 0)
    return 2 * inner + 4 * groups * mixer.state_dim + 3 * heads


def _inputs(mixer: nn.Module) -> int:
    """Width of the first linear layer's inputs."""
    return next(m.in_features for m in mixer.modules() if isinstance(m, nn.Linear))


def width_of(block: HTHBlock) -> int:
    """Numbers of a token between blocks."""
    return block.norm_cross.normalized_shape[0]


def _weight(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


def _largest(modules: nn.ModuleDict) -> int:
    """Of the modules that FSDP2 gathers one by one: the repeated blocks."""
    kinds = {
        name for m in modules.children() for name in getattr(m, "_no_split_modules", None) or ()
    }
    blocks = [_weight(m) for m in modules.modules() if type(m).__name__ in kinds]
    return max(blocks, default=_weight(modules))
