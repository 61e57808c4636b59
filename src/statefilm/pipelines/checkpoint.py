"""Model folders: what is safe to load, whether the weights are whole, and their hash."""

from __future__ import annotations

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from statefilm.errors import UsageError

__all__ = ["check_complete", "check_folder", "model_hash"]

# Formats that can run code when they are read.
UNSAFE_SUFFIXES = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth", ".py"}


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Refuse a pipeline folder that is not whole, or that holds more than data.

    Every safetensors file is read once: a truncated one, or one with NaN or infinity, is named.

    Raises:
        FileNotFoundError: no such folder.
        UsageError: no `model_index.json`, pickles or code in the folder, or damaged weights.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"model folder not found: {folder}")
    index_file = folder / "model_index.json"
    if not index_file.is_file():
        raise UsageError(f"{folder} is not a model folder: it has no model_index.json")
    try:
        if not isinstance(json.loads(index_file.read_text("utf-8")), dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise UsageError(f"{index_file}: damaged JSON ({error})") from None
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in UNSAFE_SUFFIXES:
            raise UsageError(f"{path}: only safetensors weights are loaded, never pickles or code")
    for path in _weight_files(folder):
        _check_weights(path)


def check_complete(module: nn.Module, folder: Path) -> None:
    """Refuse weights that leave part of a module at its random initial values.

    Raises:
        UsageError: names the folder and a tensor that its files lack.
    """
    stored: set[str] = set()
    for path in _weight_files(folder):
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


def model_hash(folder: str | os.PathLike[str]) -> str:
    """SHA-256 over all safetensors of a folder, names and bytes; repeated calls are free."""
    folder = Path(folder)
    digest = hashlib.sha256()
    for path in _weight_files(folder):
        stat = path.stat()
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(_file_hash(path, stat.st_size, stat.st_mtime_ns))
    return digest.hexdigest()


@lru_cache(maxsize=256)
def _file_hash(path: Path, size: int, mtime_ns: int) -> bytes:
    """A file's SHA-256, kept while size and time of change stay the same."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def _check_weights(path: Path) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (safe_open is no mapping)
                tensor = file.get_tensor(name)
                if tensor.is_floating_point() and not _is_finite(tensor):
                    raise UsageError(f"{path}: tensor {name!r} holds NaN or infinity")
    except (SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{path}: damaged or truncated safetensors file ({reason})") from None


def _is_finite(tensor: torch.Tensor) -> bool:
    # Eight-bit floats have no isfinite of their own.
    return bool(torch.isfinite(tensor.float() if tensor.itemsize == 1 else tensor).all())
