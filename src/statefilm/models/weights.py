"""Weights on disk: safetensors that are whole and finite, and that hold all a module needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from statefilm.errors import UsageError

__all__ = ["check_complete", "check_weights", "misfit", "read_tensors", "weight_files"]


def weight_files(folder: Path) -> list[Path]:
    """All safetensors files in a folder and below it, sorted."""
    return sorted(folder.rglob("*.safetensors"))


def read_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a safetensors file by name, one after the other, on the CPU.

    Raises:
        UsageError: the file is damaged, truncated or missing, or a tensor holds NaN or infinity.
    """
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (safe_open is no mapping)
                tensor = file.get_tensor(name)
                if not _is_finite(tensor):
                    raise UsageError(f"{path}: tensor {name!r} holds NaN or infinity")
                yield name, tensor
    except (SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{path}: damaged or truncated safetensors file ({reason})") from None


def check_weights(folder: Path) -> None:
    """Read every safetensors file of a folder once.

    Raises:
        UsageError: see `read_tensors`.
    """
    for path in weight_files(folder):
        for _ in read_tensors(path):
            pass


def check_complete(module: nn.Module, folder: Path) -> None:
    """Refuse weights that leave part of a module at its random initial values.

    Raises:
        UsageError: names the folder and a tensor that its files lack.
    """
    stored: set[str] = set()
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            stored.update(file.keys())
    parameters = dict(module.named_parameters(remove_duplicate=False))
    # A tied tensor is stored once, under one of its names.
    loaded = {id(parameter) for name, parameter in parameters.items() if name in stored}
    missing = [name for name, parameter in parameters.items() if id(parameter) not in loaded]
    if missing:
        raise UsageError(
            f"{folder}: weights do not fit the config, {len(missing)} tensors are missing "
            f"(first {missing[0]!r})"
        )


def misfit(module: nn.Module, folder: Path) -> str | None:
    """The first tensor in which a folder's files differ from a module, in words; None if in none.

    Args:
        module: on any device, also meta: names and shapes of its state dict are compared.
    """
    stored: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (safe_open is no mapping)
                stored[name] = tuple(file.get_slice(name).get_shape())
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for name in [*expected, *stored]:
        if stored.get(name) != expected.get(name):
            found, wanted = stored.get(name, "missing"), expected.get(name, "none")
            return f"{name!r} is {found}, expected {wanted}"
    return None


def _is_finite(tensor: Tensor) -> bool:
    # Eight-bit floats have no isfinite of their own.
    narrow = tensor.is_floating_point() and tensor.itemsize == 1
    return bool(torch.isfinite(tensor.float() if narrow else tensor).all())
