"""FSDP2: parameters cut over processes while training, whole again where a model is saved."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

__all__ = ["gathered", "local", "rows_before", "shard_modules", "unsharded", "whole"]


def shard_modules(modules: nn.ModuleDict, mesh: DeviceMesh) -> None:
    """Cut the parameters of every module and of each of its repeated blocks along their first axis.

    Parameters stay float32, and so do their exchange and that of gradients: what autocast narrows,
    it narrows after the exchange, as in a run of one process, and rates and step sizes of state
    spaces are never narrow.

    Args:
        modules: models that name their repeated blocks in `_no_split_modules`.
        mesh: [replicate, parts]; parameters are cut over the second axis.
    """
    # T5's blocks return their position bias, a view, which nobody changes in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    if mesh.size(0) == 1:
        mesh = mesh["parts"]
    for module in modules.values():
        blocks = getattr(module, "_no_split_modules", None) or ()
        # From the innermost outwards, as FSDP2 wants it.
        for child in reversed(list(module.modules())):
            if child is module or type(child).__name__ in blocks:
                # The root too, so that no copy of its weights outlives a change of them.
                fully_shard(child, mesh=mesh, reshard_after_forward=True)


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor, sharing its memory; of others the tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def rows_before(tensor: DTensor) -> int:
    """How many rows of a sharded tensor lie on the processes before this one."""
    mesh = tensor.device_mesh
    share = -(-tensor.shape[0] // mesh.size(-1))
    return min(tensor.shape[0], share * mesh.get_local_rank(mesh.ndim - 1))


@contextmanager
def unsharded(modules: nn.Module) -> Iterator[None]:
    """All parameters are whole on every process inside, for calls other than `forward`."""
    sharded = [module for module in modules.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.unshard()
    try:
        yield
    finally:
        for module in sharded:
            module.reshard()


@contextmanager
def gathered(modules: nn.Module, keep: bool) -> Iterator[None]:
    """The modules are plain ones with whole parameters on the CPU inside, where `keep` says so.

    All processes enter it together: each gives its parts. Without shards it does nothing.
    """
    sharded = [
        (module, name, parameter)
        for module in modules.modules()
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False)
        if isinstance(parameter, DTensor)
    ]
    wholes: dict[nn.Parameter, nn.Parameter | None] = {}  # a tied parameter stays one
    for _, _, parameter in sharded:
        if parameter not in wholes:
            full = whole(parameter.detach())
            wholes[parameter] = nn.Parameter(full.cpu(), parameter.requires_grad) if keep else None
    if not keep:
        yield
        return
    classes = [(m, type(m)) for m in modules.modules() if isinstance(m, FSDPModule)]
    try:
        for module, name, parameter in sharded:
            module.register_parameter(name, wholes[parameter])
        for module, kind in classes:
            module.__class__ = kind.__mro__[2]  # the first two are FSDP2's own
        yield
    finally:
        for module, kind in classes:
            module.__class__ = kind
        for module, name, parameter in sharded:
            module.register_parameter(name, parameter)


def whole(tensor: Tensor) -> Tensor:
    """A tensor with the parts of all processes, which have to call this together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
